"""The inference base."""

from labelserver.tasks.infer import BasicInferTask, CallBackTypes

__all__ = ["BasicInferTask", "CallBackTypes"]
