"""The abstract training base."""

from labelserver.tasks.base import TrainTask

__all__ = ["TrainTask"]
