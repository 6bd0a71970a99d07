"""Scores are right for several labels, and one bad image does not end a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from labelserver.domain.errors import ModelNotFound, UnreadableFile
from labelserver.tasks.base import InferTask
from labelserver.tasks.scoring import Dice, Sum, dice_per_label, mean_dice
from labelserver.tasks.scoring_epistemic import EpistemicScoring as OlderScoring
from labelserver.tasks.scoring_epistemic_v2 import EpistemicScoring, as_probabilities


class LabelStore:
    """Images with labels under tags, in memory but for the files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.labels: dict[tuple[str, str], Path] = {}
        self.images: dict[str, dict[str, Any]] = {}
        self.label_infos: dict[tuple[str, str], dict[str, Any]] = {}

    def put(self, image_id: str, tag: str, voxels: Any) -> None:
        self.images.setdefault(image_id, {})
        path = self.folder / f"{tag}_{image_id}.nii.gz"
        nib.save(nib.Nifti1Image(np.asarray(voxels, np.uint8), np.eye(4)), path)
        self.labels[image_id, tag] = path

    def list_images(self) -> list[str]:
        return list(self.images)

    def get_labeled_images(self, label_tag: str | None = None, labels: Any = None) -> list[str]:
        return [image for image, tag in self.labels if tag == (label_tag or "final")]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: Any = None) -> list[str]:
        return [image for image in self.images if (image, label_tag or "final") not in self.labels]

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        return image_id if (image_id, str(tag)) in self.labels else ""

    def get_label_uri(self, label_id: str, tag: str) -> str:
        return str(self.labels[label_id, str(tag)])

    def get_image_uri(self, image_id: str) -> str:
        return f"/images/{image_id}.nii.gz"

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        return self.images[image_id]

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        self.images[image_id].update(info)

    def update_label_info(self, label_id: str, tag: str, info: dict[str, Any]) -> None:
        self.label_infos.setdefault((label_id, tag), {}).update(info)


def test_identical_maps_with_several_labels_score_one() -> None:
    label_map = np.array([[0, 1, 2], [3, 3, 2]])
    assert mean_dice(label_map, label_map) == 1.0
    assert mean_dice(np.zeros(4), np.zeros(4)) == 1.0
    assert dice_per_label(np.array([1, 1, 2, 0]), np.array([1, 0, 0, 5])) == {1: pytest.approx(2 / 3), 2: 0.0, 5: 0.0}


def test_dice_is_written_for_images_with_both_labels(tmp_path: Path) -> None:
    store = LabelStore(tmp_path)
    truth = np.zeros((4, 4, 4), np.uint8)
    truth[0], truth[1] = 1, 2
    found = truth.copy()
    found[1, :2] = 0
    store.put("a", "final", truth)
    store.put("a", "original", found)
    store.put("b", "final", truth)
    store.put("odd", "final", truth)
    store.put("odd", "original", np.zeros((4, 4, 5)))
    result = Dice()({}, store)  # type: ignore[arg-type]
    assert result["a"] == pytest.approx((1 + 2 / 3) / 2)
    assert store.images["a"] == {"dice": round((1 + 2 / 3) / 2, 4)}
    assert "b" not in result
    assert "shape" in result["odd"]["skipped"]
    assert store.images["odd"] == {}
    swapped = Dice()({"y": "original", "y_pred": "final"}, store)  # type: ignore[arg-type]
    assert swapped["a"] == pytest.approx(result["a"])


def test_sum_counts_values_and_names_slices(tmp_path: Path) -> None:
    store = LabelStore(tmp_path)
    voxels = np.zeros((3, 2, 2), np.uint8)
    voxels[1], voxels[2, 0, 0] = 2, 1
    store.put("a", "final", voxels)
    result = Sum()({}, store)  # type: ignore[arg-type]
    assert result == {"final": {"a": {"sum": 9, "slices": [1, 2]}}}
    assert store.label_infos == {("a", "final"): {"sum": 9, "slices": [1, 2]}}


class Looks(InferTask):
    """An infer task whose answers alternate"""

    def __init__(self, weights: Path | None, answers: dict[str, list[torch.Tensor]]) -> None:
        super().__init__()
        self.weights, self.answers, self.calls = weights, answers, 0

    def get_path(self, validate: bool = True) -> str | None:
        return str(self.weights) if self.weights else None

    def is_valid(self) -> bool:
        return True

    def __call__(self, request: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        assert request["skip_writer"] is True
        name = Path(request["image"]).name.split(".")[0]
        if name == "broken":
            raise UnreadableFile("The image is cut short.")
        answers = self.answers[name]
        self.calls += 1
        return None, {"pred": answers[self.calls % len(answers)]}


def one_hot(value: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.full((4, 4), value), 2).movedim(-1, 0).float()


@pytest.fixture
def unsure(tmp_path: Path) -> tuple[LabelStore, Looks]:
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"1")
    store = LabelStore(tmp_path)
    store.images = {"sure": {}, "unsure": {}, "broken": {}}
    return store, Looks(weights, {"sure": [one_hot(1)], "unsure": [one_hot(0), one_hot(1)]})


@pytest.mark.parametrize("workers", [1, 2])
def test_disagreement_scores_higher_and_a_bad_image_is_named(unsure: tuple[LabelStore, Looks], workers: int) -> None:
    store, looks = unsure
    scoring = EpistemicScoring(looks, simulation_size=4)
    result = scoring({"max_workers": workers}, store)  # type: ignore[arg-type]
    assert (result["total"], result["executed"], result["skipped"]) == (3, 2, 0)
    assert result["failed"] == {"broken": "The image is cut short."}
    assert store.images["sure"]["epistemic_entropy"] == pytest.approx(0.0, abs=1e-6)
    if workers == 1:
        assert store.images["unsure"]["epistemic_entropy"] == pytest.approx(0.5 * np.log(2), abs=1e-3)
    assert "epistemic_entropy" not in store.images["broken"]


def test_what_was_scored_with_these_weights_is_skipped_until_they_change(unsure: tuple[LabelStore, Looks]) -> None:
    store, looks = unsure
    del store.images["broken"]
    scoring = EpistemicScoring(looks, max_samples=1)
    assert scoring({}, store)["executed"] == 1  # type: ignore[arg-type]
    assert scoring({}, store)["skipped"] == 1  # type: ignore[arg-type]
    assert scoring({}, store)["executed"] == 0  # type: ignore[arg-type]
    assert looks.weights is not None
    os.utime(looks.weights, (1, 1))
    assert scoring({"max_samples": 0}, store)["executed"] == 2  # type: ignore[arg-type]


def test_a_model_without_weights_scores_nothing(unsure: tuple[LabelStore, Looks]) -> None:
    store, looks = unsure
    looks.weights, looks.path = None, ["not/there.pt"]  # type: ignore[attr-defined]
    result = EpistemicScoring(looks)({}, store)  # type: ignore[arg-type]
    assert (result["total"], result["skipped"], result["executed"]) == (3, 3, 0)
    assert looks.calls == 0


def test_variance_and_entropy_volumes() -> None:
    scoring = EpistemicScoring(Looks(None, {}), use_variance=True)
    stack = np.array([[[0.0, 1.0]], [[1.0, 1.0]]])
    assert scoring.variance_volume(stack).tolist() == [[0.25, 0.0]]
    assert scoring.entropy_volume(stack) == pytest.approx(np.array([[0.5 * np.log(2), 0.0]]), abs=1e-6)
    looks = Looks(None, {"x": [one_hot(0), one_hot(1)]})
    scoring = EpistemicScoring(looks, use_variance=True, simulation_size=2)
    assert scoring.run_scoring("x", {}, LabelStore(Path())) == pytest.approx(0.25)  # type: ignore[arg-type]


def test_scores_masks_and_probabilities_become_probabilities() -> None:
    assert as_probabilities(torch.tensor([[0.2], [0.8]])).tolist() == [[pytest.approx(0.2)], [pytest.approx(0.8)]]
    assert as_probabilities(torch.tensor([[0.0], [100.0]])) == pytest.approx(np.array([[0.0], [1.0]]))
    assert as_probabilities(torch.tensor([[-100.0]])) == pytest.approx(np.array([[0.0]]))
    assert as_probabilities(torch.tensor([[0.0, 2.0]])).tolist() == [[1, 0], [0, 0], [0, 1]]


def test_the_older_signature_scores_with_a_weight_file(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Conv3d(1, 2, 1))
    store = LabelStore(tmp_path)
    store.images = {"a": {}, "broken": {}}
    path = tmp_path / "weights.pt"

    def load(data: dict[str, Any]) -> dict[str, Any]:
        if "broken" in data["image"]:
            raise OSError("no such file")
        return {"image": torch.ones(1, 4, 4, 4)}

    scoring = OlderScoring([str(tmp_path / "none.pt"), str(path)], network, load, roi_size=(4, 4, 4), num_samples=3)
    with pytest.raises(ModelNotFound, match="Train"):
        scoring({}, store)  # type: ignore[arg-type]
    torch.save({"model": network.state_dict()}, path)
    result = scoring({}, store)  # type: ignore[arg-type]
    assert result["a"]["epistemic_entropy"] > 0
    assert store.images["a"]["epistemic_ts"] == int(path.stat().st_mtime)
    assert "no such file" in result["broken"]["skipped"]
    assert "a" not in scoring({}, store)  # type: ignore[arg-type]
