"""Transforms of click models."""

from monai.apps.deepgrow.transforms import (
    AddRandomGuidanced,
    FindAllValidSlicesd,
    FindDiscrepancyRegionsd,
    ResizeGuidanced,
    RestoreLabeld,
    SpatialCropForegroundd,
    SpatialCropGuidanced,
)

from labelserver.tasks.clicks import AddClickGuidanced, AddGuidanceSignald, AddInitialSeedPointd

__all__ = [
    "AddClickGuidanced",
    "AddGuidanceSignald",
    "AddInitialSeedPointd",
    "AddRandomGuidanced",
    "FindAllValidSlicesd",
    "FindDiscrepancyRegionsd",
    "ResizeGuidanced",
    "RestoreLabeld",
    "SpatialCropForegroundd",
    "SpatialCropGuidanced",
]
