"""A version of a model as something that runs without this server: TorchScript, bundle, application, package."""
