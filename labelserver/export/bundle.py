"""A MONAI bundle of a version: everything that MONAI's own tools, MONAI Label and the model zoo ask of one.

The tree is that of MONAI's specification of bundles; ``model.ts``, ``scripts`` and ``selftest`` are those of the
prepared folder. Nothing in it is an absolute path.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from labelserver.domain.errors import InvalidParams
from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.export.contents import ABOUT, LABELS, MODEL, SCRIPTS, SELFTEST, ExportContents
from labelserver.export.preparing import Prepared
from labelserver.export.train_config import train_config
from labelserver.tasks.fast_forward import tune_for_cpu

#: lines of a licence for who has chosen none
_NO_LICENCE = """\
{title}

No licence was chosen when this was exported, so all rights in the weights stay with the authors of {app}.
Export again with --license FILE to grant one.

Code below scripts/ that was taken from labelserver is under the Apache License, Version 2.0
(https://www.apache.org/licenses/LICENSE-2.0). Code that was taken from the app is its authors'.
"""


@dataclass(frozen=True, slots=True)
class BundleOptions:
    """What a person may choose."""

    licence: Path | None = None  #: its text becomes LICENSE


def write_bundle(prepared: Prepared, target: Path, options: BundleOptions | None = None) -> Path:
    """Write the bundle into `target`, which does not exist; its name is the bundle's.

    Raises:
        InvalidParams: it is not known how the network is built, without which a bundle cannot train.
    """
    if prepared.network_def is None:
        raise InvalidParams(
            f"No bundle can be written: {prepared.no_network_def}. Export as torchscript, app or map instead."
        )
    for part in ("configs", "models", "docs"):
        (target / part).mkdir(parents=True)
    contents = prepared.contents
    _write_json(target / "configs" / "metadata.json", prepared.metadata)
    _write_json(target / "configs" / "inference.json", inference(prepared))
    _write_json(target / "configs" / "train.json", train_config(prepared))
    torch.save(
        {name: value.contiguous().clone() for name, value in prepared.network.state_dict().items()},
        target / "models" / "model.pt",
    )
    shutil.copyfile(contents.torchscript, target / "models" / MODEL)
    for name in (SCRIPTS, SELFTEST):
        if (contents.folder / name).is_dir():
            shutil.copytree(contents.folder / name, target / name)
    for name in (LABELS, ABOUT):
        shutil.copyfile(contents.folder / name, target / "docs" / name)
    (target / "docs" / "README.md").write_text(readme(prepared), encoding="utf-8")
    licence = (options or BundleOptions()).licence
    text = licence.read_text(encoding="utf-8") if licence is not None else _no_licence(contents)
    (target / "LICENSE").write_text(text, encoding="utf-8")
    return target


def inference(prepared: Prepared) -> JsonObject:
    """``inference.json``: reads the images of ``dataset_dir``, writes label maps into ``output_dir``."""
    own = prepared.config.items(scripts=bool(prepared.code))
    after = dict(prepared.config.postprocessing)
    steps = after["transforms"]
    saved: JsonObject = {
        "_target_": "monai.transforms.SaveImaged",
        "keys": "pred",
        "output_dir": "@output_dir",
        "output_postfix": "",
        "output_ext": ".nii.gz" if prepared.contents.dimension == 3 else ".png",
        "output_dtype": "$np.uint8" if max(label.value for label in prepared.contents.labels) < 256 else "$np.uint16",
        "resample": False,
        "separate_folder": False,
    }
    after["transforms"] = [*(steps if isinstance(steps, list) else []), saved]
    return {
        "imports": [*_listed(own.pop("imports")), *[f"${line}" for line in prepared.imports], "$import glob"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/selftest'",
        "output_dir": "$@bundle_root + '/eval'",
        "datalist": "$sorted(glob.glob(@dataset_dir + '/input.*') or glob.glob(@dataset_dir + '/*.*'))",
        "network_def": prepared.network_def,
        **own,
        **_network(prepared),
        "dataset": {
            "_target_": "monai.data.Dataset",
            "data": "$[{'image': path} for path in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "monai.data.DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "postprocessing": after,
        "checkpointloader": {
            "_target_": "monai.handlers.CheckpointLoader",
            "load_path": "$@bundle_root + '/models/model.pt'",
            "load_dict": {"model": "@network"},
            "map_location": "@device",
        },
        "handlers": ["@checkpointloader"],
        "evaluator": {
            "_target_": "monai.engines.SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "initialize": [],
        "run": ["$@evaluator.run()"],
    }


def _network(prepared: Prepared) -> JsonObject:
    """On a processor the server asks for other kernels than torch does by itself; so does the bundle's code."""
    if not prepared.code:
        return {"network": "$@network_def.to(@device)"}
    return {
        "tuned": {
            "_target_": prepared.code.name_of(tune_for_cpu),
            "_disabled_": "$not (@exact and @device.type == 'cpu')",
            "network": "@network_def",
        },
        "network": "$@tuned if @exact and @device.type == 'cpu' else @network_def.to(@device)",
    }


def readme(prepared: Prepared) -> str:
    """Metrics and origin of the version, and how to run it."""
    contents, told = prepared.contents, prepared.contents.provenance
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in sorted(contents.metrics.items()))
    metrics = f"| metric | value |\n|---|---|\n{rows}" if rows else "No metrics were recorded for this version."
    names = "\n".join(f"| {label.value} | {label.name} | {_term(label.term)} |" for label in contents.labels)
    trained = time.strftime("%Y-%m-%d", time.gmtime(told.trained_ts)) if told.trained_ts else "unknown"
    return f"""\
# {contents.model}, version {contents.version}

{contents.description}

Made by the app {contents.app}. Not cleared for diagnostic use.

## Labels

| value | name | term |
|---|---|---|
{names}

## What it reached

Means over {told.held_out} held-out images that it did not learn from.

{metrics}

## Where it comes from

- trained: {trained}, on {told.labels} accepted labels
- data set (SHA-256 over image ids and label checksums): {told.dataset_sha256 or "not recorded"}
- weights (SHA-256): {told.weights_sha256 or "not recorded"}
- decision: {told.verdict or "none"}{f", by {told.decided_by}" if told.decided_by else ""}{_sentence(told.reason)}
- network as TorchScript: by {prepared.method}

## Run it

    python -m monai.bundle run --config_file configs/inference.json --bundle_root . \\
        --dataset_dir IMAGES --output_dir ANSWERS

Run inside this folder, or with it on PYTHONPATH: then the code below `scripts` gives the same labels as the server that
made this, voxel for voxel. {_without_scripts(contents)}

`selftest/` holds an image, the server's answer to it, and the settings under which it was made.

Train on: `python -m monai.bundle run --config_file configs/train.json --dataset_dir STUDIES`, where STUDIES holds
images and, under `labels/final/`, label maps of the same names.
"""


def _without_scripts(contents: ExportContents) -> str:
    if contents.scripts is None:
        return "It brings no code."
    if contents.needs_scripts:
        return "Without that code it does not run."
    return "Without it, MONAI's own transforms stand in; a voxel may differ where two scores are equal up to rounding."


def _no_licence(contents: ExportContents) -> str:
    return _NO_LICENCE.format(title=f"{contents.model}, version {contents.version}", app=contents.app)


def _term(term: object) -> str:
    return f"{getattr(term, 'scheme', '')} {getattr(term, 'value', '')}" if term is not None else ""


def _sentence(reason: str) -> str:
    return f": {reason}" if reason else ""


def _listed(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else []


def _write_json(path: Path, document: JsonObject) -> None:
    path.write_text(json.dumps(document, indent=4) + "\n", encoding="utf-8")
