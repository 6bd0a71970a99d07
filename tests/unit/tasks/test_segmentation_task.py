"""The ready-made segmentation: contiguous labels, the image's grid, a second request that skips the preparation."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets import UNet

from labelserver.domain.errors import InvalidParams
from labelserver.imaging.volumes import read_volume
from labelserver.tasks.segmentation import SegmentationInfer


class BrightVoxels(torch.nn.Module):
    """Class 0 below, class 1 above the middle of the window, class 2 never."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.full_like(x, 0.5), x, torch.zeros_like(x)], dim=1)


def task(**more: object) -> SegmentationInfer:
    return SegmentationInfer(
        "",
        BrightVoxels(),
        {"liver": 17, "spleen": 42},
        spacing_mm=(2.0, 2.0, 2.0),
        roi_size=(16, 16, 16),
        intensity_window=(-100.0, 100.0),
        **more,  # type: ignore[arg-type]
    )


@pytest.fixture
def image(tmp_path: Path) -> Path:
    voxels = np.full((24, 20, 18), -90, np.int32)
    voxels[6:14, 5:11, 4:10] = 90
    path = tmp_path / "case.nii.gz"
    nib.save(nib.Nifti1Image(voxels, np.diag([-2.0, -2.0, 2.0, 1.0])), path)
    return path


def test_r12_labels_are_one_to_n_in_order_of_their_values(image: Path) -> None:
    segmentation = task()
    assert segmentation.info()["labels"] == {"liver": 1, "spleen": 2}
    for restore in (True, False):
        file, answer = segmentation({"image": str(image), "restore_label_idx": restore})
        mask = nib.load(file)
        assert np.array_equal(np.asarray(mask.dataobj), np.asarray(nib.load(image).dataobj) > 0)
        assert np.array_equal(mask.affine, nib.load(image).affine)
        assert answer["label_names"] == {"liver": 1, "spleen": 2}


def test_a_second_request_for_the_same_file_skips_the_preparation_and_a_changed_file_does_not(image: Path) -> None:
    segmentation = task()
    first, second = (segmentation({"image": str(image)})[1]["latencies"]["transform"] for _ in range(2))
    assert "LoadVolumed" in first["pre"]
    assert "pre" not in second
    voxels = np.full((24, 20, 18), 90, np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([-2.0, -2.0, 2.0, 1.0])), image)
    file, third = segmentation({"image": str(image)})
    assert "LoadVolumed" in third["latencies"]["transform"]["pre"]
    assert np.asarray(nib.load(file).dataobj).all()


def test_two_tasks_of_another_spacing_do_not_share_the_preparation(image: Path) -> None:
    task()({"image": str(image)})
    other = task(orientation="LPS")
    assert "LoadVolumed" in other({"image": str(image)})[1]["latencies"]["transform"]["pre"]


def test_scores_for_scoring_stay_on_the_networks_grid(image: Path) -> None:
    file, data = task(train_mode=True, skip_writer=True)({"image": str(image)})
    assert file is None
    assert tuple(data["pred"].shape) == (3, 24, 20, 18)


def test_options_are_used_and_nonsense_is_refused(image: Path) -> None:
    assert task().info()["config"]["sw_overlap"] == 0.25
    with pytest.raises(InvalidParams, match="sw_overlap"):
        task()({"image": str(image), "sw_overlap": "much"})


def test_a_real_ct_of_whole_numbers_gives_a_mask_on_its_own_grid(real_data: Path) -> None:
    path = real_data / "ct-abdomen" / "image.nii.gz"
    network = UNet(3, 1, 3, (4, 8), (2,))
    segmentation = SegmentationInfer("", network, ["a", "b"], spacing_mm=(6.0, 6.0, 6.0), roi_size=(64, 64, 64))
    file, _ = segmentation({"image": str(path)})
    original, mask = read_volume(path), read_volume(Path(file))
    assert original.voxels.dtype.kind == "i"
    assert mask.voxels.dtype == np.uint8
    assert mask.voxels.shape == original.voxels.shape
    assert np.array_equal(mask.grid.affine, original.grid.affine)
