"""Transforms after a network."""

from labelserver.tasks.transforms import (
    BoundingBoxd,
    DumpImagePrediction2Dd,
    ExtremePointsd,
    FindContoursd,
    LargestCCd,
    MergeAllPreds,
    RenameKeyd,
    Restored,
)

__all__ = [
    "BoundingBoxd",
    "DumpImagePrediction2Dd",
    "ExtremePointsd",
    "FindContoursd",
    "LargestCCd",
    "MergeAllPreds",
    "RenameKeyd",
    "Restored",
]
