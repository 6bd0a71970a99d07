"""Colours of labels."""

from labelserver.tasks.colors import get_color, to_hex, to_rgb

__all__ = ["get_color", "to_hex", "to_rgb"]
