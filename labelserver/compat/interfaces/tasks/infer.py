"""The concrete inference base, as the early releases called it."""

from labelserver.tasks.base import InferType
from labelserver.tasks.infer import BasicInferTask as InferTask

__all__ = ["InferTask", "InferType"]
