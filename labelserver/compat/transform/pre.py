"""Transforms before a network."""

from labelserver.tasks.transforms import LoadImageExd, LoadImageTensord, NormalizeLabeld

__all__ = ["LoadImageExd", "LoadImageTensord", "NormalizeLabeld"]
