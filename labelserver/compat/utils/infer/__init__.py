"""Inference tasks, at their old place."""

from labelserver.tasks.infer import BasicInferTask
from labelserver.tasks.stages import CallBackTypes

__all__ = ["BasicInferTask", "CallBackTypes"]
