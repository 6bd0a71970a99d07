"""The training base, at its old place."""

from labelserver.tasks.train import BasicTrainTask, Context

__all__ = ["BasicTrainTask", "Context"]
