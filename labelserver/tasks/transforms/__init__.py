"""Dictionary transforms that labeling needs beside MONAI's; an app mixes them freely with MONAI's own."""

from labelserver.tasks.transforms.annotated import LoadAnnotatedd
from labelserver.tasks.transforms.caching import CacheTransformDatad
from labelserver.tasks.transforms.contours import FindContoursd
from labelserver.tasks.transforms.loading import LoadImageExd, LoadImageTensord, LoadVolumed, NormalizeLabeld
from labelserver.tasks.transforms.measuring import (
    BoundingBoxd,
    DumpImagePrediction2Dd,
    ExtremePointsd,
    LargestCCd,
    MergeAllPreds,
    RenameKeyd,
)
from labelserver.tasks.transforms.restoring import ArgmaxOnOriginalGridd, Restored

__all__ = [
    "ArgmaxOnOriginalGridd",
    "BoundingBoxd",
    "CacheTransformDatad",
    "DumpImagePrediction2Dd",
    "ExtremePointsd",
    "FindContoursd",
    "LargestCCd",
    "LoadAnnotatedd",
    "LoadImageExd",
    "LoadImageTensord",
    "LoadVolumed",
    "MergeAllPreds",
    "NormalizeLabeld",
    "RenameKeyd",
    "Restored",
]
