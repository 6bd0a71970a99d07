"""Dice against a reference label."""

from labelserver.tasks.scoring import Dice

__all__ = ["Dice"]
