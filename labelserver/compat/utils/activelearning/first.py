"""The first image."""

from labelserver.tasks.strategies import First

__all__ = ["First"]
