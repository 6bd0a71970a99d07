"""The abstract inference base."""

from labelserver.tasks.base import InferTask, InferType

__all__ = ["InferTask", "InferType"]
