"""The inference base, at its old place."""

from labelserver.tasks.infer import BasicInferTask
from labelserver.tasks.stages import CallBackTypes

__all__ = ["BasicInferTask", "CallBackTypes"]
