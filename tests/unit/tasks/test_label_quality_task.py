"""Findings about a project's labels: kept, shown with pictures, made anew only for labels that changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from labelserver.cli.main import cli
from labelserver.contracts.model_store import Candidate, writing_to
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.oddities import Oddity
from labelserver.model_store.local import LocalModelStore
from labelserver.tasks.label_quality import LabelQuality
from labelserver.tasks.segmentation import SegmentationInfer

AFFINE = np.diag([-2.0, -1.0, 1.5, 1.0])  # stored as LPS
SHAPE = (16, 20, 18)
BOX = (slice(3, 9), slice(4, 14), slice(5, 13))


class Threshold(torch.nn.Module):
    """Brighter than half is organ: a network that is right about the images of these tests."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(12.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([-(x - 0.5), x - 0.5], dim=1) * self.scale


def task(weights: Path) -> SegmentationInfer:
    torch.save({"model": Threshold().state_dict()}, weights)
    return SegmentationInfer(
        weights, Threshold(), ["organ"], spacing_mm=(1, 1, 1.5), roi_size=(24, 24, 24), intensity_window=(0, 200)
    )


def project(folder: Path, count: int = 7, **odd: tuple[Any, ...]) -> LocalDatastore:
    """Images with a bright box, labelled; `odd` names images whose label has voxels of `index` set to a value."""
    (folder / "labels" / "final").mkdir(parents=True)
    for number in range(count):
        name, label = f"i{number}", np.zeros(SHAPE, np.uint8)
        label[BOX] = 1
        label[9, 4 : 4 + number % 3, 5] = 1
        image = (label * 180 + np.random.default_rng(number).normal(0, 3, SHAPE)).astype(np.int16)
        for index, value in odd.get(name, ()):
            label[index] = value
        nib.save(nib.Nifti1Image(image, AFFINE), folder / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(label, AFFINE), folder / "labels" / "final" / f"{name}.nii.gz")
    return LocalDatastore(folder, auto_reload=False)


ODD = {
    "i1": (((slice(13, 15), slice(16, 18), slice(0, 2)), 1),),
    "i2": (((slice(5, 7), slice(7, 9), slice(8, 10)), 0),),
    "i3": (((slice(None), slice(None), slice(9, 10)), 0),),
    "i4": (((slice(2, 15), slice(2, 18), slice(1, 17)), 1),),
    "i5": (((slice(None), slice(None), slice(None)), 0), ((slice(10, 15), slice(15, 19), slice(0, 4)), 1)),
}


def test_each_oddity_is_listed_with_a_picture(tmp_path: Path) -> None:
    store = project(tmp_path / "s", **ODD)
    found = LabelQuality(task(tmp_path / "m.pt"), "seg")({}, store)
    assert (found["total"], found["executed"], found["failed"]) == (7, 7, {})
    listed = {(one.image_id, one.finding.kind) for one in store.oddities()}
    assert ("i1", Oddity.ISLAND) in listed
    assert ("i2", Oddity.HOLE) in listed
    assert ("i3", Oddity.SLICE_GAP) in listed
    assert ("i4", Oddity.VOLUME) in listed
    assert ("i5", Oddity.CONFIDENCE) in listed
    assert not {image for image, _ in listed} & {"i0", "i6"}
    assert all(store.oddity_picture(one.number).startswith(b"\x89PNG") for one in store.oddities())
    severities = [one.finding.severity for one in store.oddities()]
    assert severities == sorted(severities, reverse=True)


def test_only_changed_labels_are_looked_at_again(tmp_path: Path) -> None:
    store = project(tmp_path / "s", 6, i1=ODD["i1"])
    quality = LabelQuality()
    assert quality({}, store)["executed"] == 6
    assert [one.image_id for one in store.oddities(kind="island")] == ["i1"]
    assert (quality({}, store)["executed"], quality({}, store)["fresh"]) == (0, 6)
    clean = np.zeros(SHAPE, np.uint8)
    clean[BOX] = 1
    nib.save(nib.Nifti1Image(clean, AFFINE), tmp_path / "clean.nii.gz")
    store.save_label("i1", str(tmp_path / "clean.nii.gz"), "final", {})
    assert quality({}, store)["executed"] == 1
    assert store.oddities(kind="island") == []


def test_a_second_reader_who_differs_is_told_of(tmp_path: Path) -> None:
    store = project(tmp_path / "s", 2)
    other = np.zeros(SHAPE, np.uint8)
    other[3:5, 4:14, 5:13] = 1
    nib.save(nib.Nifti1Image(other, AFFINE), tmp_path / "other.nii.gz")
    store.save_label("i0", str(tmp_path / "other.nii.gz"), "reader_1", {})
    LabelQuality()({}, store)
    (one,) = store.oddities()
    assert (one.image_id, one.finding.kind) == ("i0", Oddity.DISAGREEMENT)
    assert "reader_1" in one.finding.detail


def test_only_a_version_that_did_not_learn_from_the_image_is_asked(tmp_path: Path) -> None:
    weights = tmp_path / "app" / "model" / "m.pt"
    weights.parent.mkdir(parents=True)
    quality = LabelQuality(task(weights), "seg")
    models = LocalModelStore(tmp_path / "app")
    for number, learned in ((1, {"i0": "a"}), (2, {"i0": "a", "i1": "b"})):
        file = tmp_path / f"weights{number}.safetensors"
        file.write_bytes(b"x")
        models.add(Candidate(model="seg", files=(file,), publish_path="model/m.pt", labels=dict(learned)))
    with writing_to(models):
        assert [quality._version_without(name) for name in ("i0", "i1", "i2")] == [None, 1, 2]
    assert quality._version_without("i0") == -1  # weights of unknown origin


def test_the_command_lists_them_and_writes_the_pictures(tmp_path: Path) -> None:
    project(tmp_path / "s", 6, i1=ODD["i1"])
    command = ["evaluate", "labels", "--studies", str(tmp_path / "s"), "--pictures", str(tmp_path / "p")]
    result = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert result.exit_code == 0
    assert "island" in result.output
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["001-i1-label_1-island.png"]


@pytest.mark.parametrize("name", ["i0"])
def test_the_models_probabilities_lie_on_the_labels_grid(tmp_path: Path, name: str) -> None:
    """The box of a volume stored as LPS at 2 mm is believed in, so its mirror image would not be."""
    store = project(tmp_path / "s", 1)
    quality = LabelQuality(task(tmp_path / "m.pt"), "seg")
    assert quality.look(name, {}, store)[0] == []
    mirrored = np.zeros(SHAPE, np.uint8)
    mirrored[BOX] = 1
    nib.save(nib.Nifti1Image(mirrored[::-1].copy(), AFFINE), tmp_path / "mirrored.nii.gz")
    store.save_label(name, str(tmp_path / "mirrored.nii.gz"), "final", {})
    assert [one.finding.kind for one in quality.look(name, {}, store)[0]] == [Oddity.CONFIDENCE]
