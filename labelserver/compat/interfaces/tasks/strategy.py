"""The strategy base."""

from labelserver.tasks.base import Strategy

__all__ = ["Strategy"]
