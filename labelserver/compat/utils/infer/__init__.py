"""Inference tasks, at their old place."""

from labelserver.tasks.infer import BasicInferTask, CallBackTypes

__all__ = ["BasicInferTask", "CallBackTypes"]
