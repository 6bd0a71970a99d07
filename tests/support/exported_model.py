"""A prepared model version as `labelserver.export.preparing` leaves it, with a network whose answer everybody knows.

It gives 1 to voxels above 100 and 2 to voxels above 500, on the grid of the image, by way of a softmax and an argmax.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from labelserver.domain.schema import CodedTerm
from labelserver.export.contents import ExportContents, ExportedLabel, Provenance, RunSettings, write_about
from labelserver.imaging.volumes import write_volume

LABELS = (
    ExportedLabel(1, "liver", (221, 130, 101), CodedTerm("SCT", "10200004", "Liver")),
    ExportedLabel(2, "Gefäß", (0, 151, 206)),
)
ABOVE = (100.0, 500.0)


class Thresholds(nn.Module):
    """(B, 1, I, J, K) to scores (B, 3, I, J, K)."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        low = torch.sigmoid((image - 100.5) * 4.0)
        high = torch.sigmoid((image - 500.5) * 4.0)
        return torch.cat([1.0 - low, low - high, high], dim=1)


def expected(voxels: NDArray[Any]) -> NDArray[np.uint8]:
    """What the network answers."""
    return (voxels > ABOVE[0]).astype(np.uint8) + (voxels > ABOVE[1]).astype(np.uint8)


def configuration(*, spacing: bool = False) -> dict[str, Any]:
    """``inference.json``; with `spacing` the network sees another grid than the image's."""
    before: list[dict[str, Any]] = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
    ]
    if spacing:
        before.append({"_target_": "Spacingd", "keys": "image", "pixdim": [1.5, 1.5, 1.5], "mode": "bilinear"})
    before.append({"_target_": "EnsureTyped", "keys": "image"})
    return {
        "imports": ["$import torch"],
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "preprocessing": {"_target_": "Compose", "transforms": before},
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16], "sw_batch_size": 2, "overlap": 0.25},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "image",
                    "nearest_interp": False,
                    "to_tensor": True,
                },
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            ],
        },
    }


def prepare(folder: Path, *, modality: str = "CT", spacing: bool = False) -> ExportContents:
    """Write the folder and say what is in it."""
    folder.mkdir(parents=True)
    (folder / "selftest").mkdir()
    extra = {"inference.json": json.dumps(configuration(spacing=spacing)), "metadata.json": "{}"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(Thresholds()), folder / "model.ts", _extra_files=extra)
    voxels = np.random.default_rng(3).integers(-200, 900, (20, 18, 17)).astype(np.int16)
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    write_volume(folder / "selftest" / "input.nii.gz", voxels, affine, compress=True)
    write_volume(folder / "selftest" / "expected.nii.gz", expected(voxels), affine, compress=True)
    (folder / "selftest" / "settings.json").write_text(json.dumps(RunSettings().to_json()))
    contents = ExportContents(
        folder=folder,
        app="radiology",
        model="segmentation",
        version=7,
        description="Finds what is bright.",
        dimension=3,
        modality=modality,
        labels=LABELS,
        created_ts=1.7e9,
        requirements=("torch==2.13.0", "monai==1.6.1"),
        metrics={"val_mean_dice": 0.9},
        provenance=Provenance(weights_sha256="ab" * 32, labels=5, held_out=2),
    )
    write_about(contents)
    return contents
