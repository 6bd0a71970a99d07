"""The scoring base."""

from labelserver.tasks.base import ScoringMethod

__all__ = ["ScoringMethod"]
