"""``metadata.json`` by MONAI's schema of 2024-07-25, with what is known about the version under a key of our own."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterable

import monai
import numpy as np
import torch

from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.export.contents import ExportContents

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
LICENCE_NAME = "Apache-2.0"


def metadata(
    contents: ExportContents,
    *,
    in_channels: int,
    out_channels: int,
    multiple: int,
    changelog: dict[str, str],
    requirements: Iterable[str] = (),
) -> JsonObject:
    """The document.

    Args:
        contents: what is known about the version.
        in_channels: of the network.
        out_channels: of the network.
        multiple: spatial sizes must be multiples of it.
        changelog: version -> what it reached, this version among them.
        requirements: distributions beside torch, MONAI and numpy.
    """
    shape: list[JsonValue] = [f"{multiple}*n"] * contents.dimension
    names: JsonObject = {"0": "background"} if out_channels > 1 else {}
    names |= {str(label.value if out_channels > 1 else 0): label.name for label in contents.labels}
    image: JsonObject = {
        "type": "image",
        "format": "hounsfield" if contents.modality == "CT" else "magnitude",
        **({"modality": contents.modality} if contents.modality else {}),
        "num_channels": in_channels,
        "spatial_shape": shape,
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": {str(channel): "image" for channel in range(in_channels)},
    }
    pred: JsonObject = {
        "type": "image",
        "format": "segmentation",
        "num_channels": out_channels,
        "spatial_shape": shape,
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": names,
    }
    return {
        "schema": SCHEMA,
        "name": contents.model,
        "version": contents.semantic_version,
        "changelog": dict(changelog),
        "monai_version": _plain(monai.__version__),
        "pytorch_version": _plain(torch.__version__),
        "numpy_version": _plain(np.__version__),
        "required_packages_version": {name: importlib.metadata.version(name) for name in ("nibabel", *requirements)},
        "supported_apps": {"monai-label": "", "monai-deploy": ""},
        "task": f"{contents.model}: segmentation",
        "description": contents.description or contents.model,
        "authors": contents.app,
        "copyright": f"The authors of {contents.app}",
        "intended_use": "Research. Not cleared for diagnostic use.",
        "data_type": "nibabel" if contents.dimension == 3 else "picture",
        "image_classes": f"{contents.modality or 'single-channel'} image",
        "label_classes": "one value a label, as in channel_def",
        "pred_classes": "one channel a label, as in channel_def",
        "eval_metrics": dict(contents.metrics),
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
        "labelserver": {**contents.to_json(), "exported": time.strftime("%Y-%m-%d", time.gmtime(contents.created_ts))},
    }


def _plain(version: str) -> str:
    """Without what a build adds (``2.13.0+cpu``)."""
    return version.partition("+")[0]
