"""A MONAI bundle as a model: names, labels and options from its files, the answer on the image's grid."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets import UNet
from monai.transforms import EnsureTyped

from labelserver.tasks.bundle_infer import BundleInferTask
from labelserver.tasks.bundle_trust import trust

METADATA = {
    "version": "0.5.1",
    "description": "A small bundle",
    "network_data_format": {
        "inputs": {"image": {"spatial_shape": [32, 32, 32]}},
        "outputs": {"pred": {"channel_def": {"0": "background", "1": "Spleen"}}},
    },
}
INFERENCE: dict[str, Any] = {
    "imports": ["$import glob"],
    "bundle_root": "/nowhere",
    "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "displayable_configs": {"sw_overlap": 0.25, "roi": [16, 32]},
    "network_def": {
        "_target_": "UNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 2,
        "channels": [4, 8],
        "strides": [2],
    },
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "scripts.own.Orient", "keys": "image", "axcodes": "RAS"},
            {"_target_": "Spacingd", "keys": "image", "pixdim": [3.0, 3.0, 3.0]},
            {"_target_": "EnsureTyped", "keys": "image", "device": "@device"},
        ],
    },
    "inferer": {
        "_target_": "SlidingWindowInferer",
        "roi_size": "$[@displayable_configs#roi] * 3",
        "overlap": "@displayable_configs#sw_overlap",
    },
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "Activationsd", "keys": "pred", "softmax": True},
            {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"},
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            {"_target_": "SaveImaged", "keys": "pred", "output_dir": "/nowhere/at/all"},
        ],
    },
}
SCRIPT = (
    "from monai.transforms import Orientationd\n"
    "class Orient(Orientationd):\n"
    "    def __init__(self, keys, axcodes):\n"
    "        super().__init__(keys, axcodes, labels=(('L', 'R'), ('P', 'A'), ('I', 'S')))\n"
)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "spleen_bundle"
    for part in ("configs", "models", "scripts"):
        (folder / part).mkdir(parents=True)
    (folder / "configs" / "inference.json").write_text(json.dumps(INFERENCE))
    (folder / "configs" / "metadata.json").write_text(json.dumps(METADATA))
    (folder / "scripts" / "__init__.py").touch()
    (folder / "scripts" / "own.py").write_text(SCRIPT)
    torch.save(UNet(3, 1, 2, (4, 8), (2,)).state_dict(), folder / "models" / "model.pt")
    trust(folder)
    return folder


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "case.nii.gz"
    voxels = np.random.default_rng(0).normal(size=(20, 22, 24)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.diag([-2.0, -2.0, 2.5, 1.0])), path)
    return path


def test_a_bundle_describes_itself_and_answers_on_the_images_grid(bundle: Path, image: Path) -> None:
    task = BundleInferTask(str(bundle), {})
    info = task.info()
    assert task.is_valid()
    assert (info["labels"], info["version"], info["description"]) == ({"spleen": 1}, "0.5.1", "A small bundle")
    assert info["config"]["model_filename"] == ["model.pt"]
    assert info["config"]["sw_overlap"] == 0.25
    file, answer = task({"image": str(image)})
    assert nib.load(file).shape == (20, 22, 24)
    assert np.allclose(nib.load(file).affine, nib.load(image).affine)
    assert answer["label_names"] == {"spleen": 1}


def test_options_of_a_request_are_used_and_do_not_stay(bundle: Path) -> None:
    task = BundleInferTask(str(bundle), {})
    assert task.inferer({"device": "cpu", "roi": 32, "sw_overlap": 0.5}).overlap == 0.5  # type: ignore[union-attr]
    assert task.inferer({"device": "cpu"}).overlap == 0.25  # type: ignore[union-attr]
    assert list(task.inferer({"device": "cpu"}).roi_size) == [16, 16, 16]  # type: ignore[union-attr]


def test_the_bundles_scripts_are_nobody_elses(bundle: Path) -> None:
    BundleInferTask(str(bundle), {}).pre_transforms({"device": "cpu"})
    assert str(bundle) not in sys.path
    assert not any(name.split(".")[0] == "scripts" for name in sys.modules)


def test_transforms_can_be_left_out_and_arrays_passed(bundle: Path) -> None:
    task = BundleInferTask(str(bundle), {}, pre_filter=[EnsureTyped], add_post_restore=False)
    names = [type(step).__name__ for step in task.pre_transforms({"device": "cpu"})]  # type: ignore[union-attr]
    assert names == ["LoadImageTensord", "EnsureChannelFirstd", "Orient", "Spacingd"]
    names = [type(step).__name__ for step in task.post_transforms({"device": "cpu"})]  # type: ignore[union-attr]
    assert names == ["Activationsd", "Invertd", "AsDiscreted"]


def test_torchscript_weights_serve_where_no_others_are(bundle: Path, image: Path) -> None:
    network = UNet(3, 1, 2, (4, 8), (2,)).eval()
    torch.jit.script(network).save(str(bundle / "models" / "model.ts"))
    trust(bundle)
    (bundle / "models" / "model.pt").unlink()
    task = BundleInferTask(str(bundle), {})
    assert task.network is None
    assert task({"image": str(image)})[0]


def test_a_folder_without_a_configuration_is_a_whole_task_that_is_not_valid(tmp_path: Path) -> None:
    task = BundleInferTask(str(tmp_path / "lung_detection"), {})
    assert not task.is_valid()
    assert task.info()["type"] == "detection"
