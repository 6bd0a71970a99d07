"""The inference base, at its old place."""

from labelserver.tasks.infer import BasicInferTask, CallBackTypes

__all__ = ["BasicInferTask", "CallBackTypes"]
