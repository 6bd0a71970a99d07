"""The training base."""

from labelserver.tasks.train import BasicTrainTask, Context

__all__ = ["BasicTrainTask", "Context"]
