"""Groups of tasks that belong to one model."""

from labelserver.app.task_config import TaskConfig

__all__ = ["TaskConfig"]
