"""Random images."""

from labelserver.tasks.strategies import Random

__all__ = ["Random"]
