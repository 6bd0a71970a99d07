"""Keeping prepared images."""

from labelserver.tasks.transforms import CacheTransformDatad

__all__ = ["CacheTransformDatad"]
