"""Colours of anatomy."""

from labelserver.tasks.colors import ANATOMY_COLORS as GENERIC_ANATOMY_COLORS

__all__ = ["GENERIC_ANATOMY_COLORS"]
