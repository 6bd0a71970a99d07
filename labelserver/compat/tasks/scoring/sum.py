"""Sums of labels."""

from labelserver.tasks.scoring import Sum

__all__ = ["Sum"]
