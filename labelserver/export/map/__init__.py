"""The MONAI Application Package: a model version as what an image is built from; what builds, runs and checks it."""

from labelserver.export.map.writing import MapOptions, write_map

__all__ = ["MapOptions", "write_map"]
