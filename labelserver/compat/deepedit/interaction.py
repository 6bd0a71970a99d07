"""Simulated clicks while training."""

from labelserver.tasks.clicks import Interaction

__all__ = ["Interaction"]
