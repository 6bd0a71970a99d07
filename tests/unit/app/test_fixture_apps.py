"""Two whole apps in one process: the example of the peer's documentation, and one in the peer's style, unmodified."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from labelserver import settings as settings_module
from labelserver.app.label_app import LabelApp
from labelserver.app.loading import load_app
from labelserver.domain.errors import NotThereYet
from labelserver.settings import Settings

APPS = Path(__file__).parents[2] / "apps"
AFFINE = np.diag([-3.0, -3.0, 4.0, 1.0])


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(settings_module, "_installed", Settings())
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.setenv("PYTHONPATH", "")
    yield
    for name in [n for n in sys.modules if n.split(".")[0] in ("lib", "monailabel")]:
        del sys.modules[name]


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """Four small CT-like volumes, LPS, int32; three have an accepted label."""
    folder = tmp_path / "studies"
    (folder / "labels" / "final").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(4):
        mask = np.zeros((40, 36, 30), np.uint8)
        mask[10:25, 8:20, 6:18] = 1
        voxels = (rng.normal(0, 30, mask.shape) + 100 * mask).astype(np.int32)
        nib.save(nib.Nifti1Image(voxels, AFFINE), folder / f"i{number}.nii.gz")
        if number < 3:
            nib.save(nib.Nifti1Image(mask, AFFINE), folder / "labels" / "final" / f"i{number}.nii.gz")
    return folder


def loaded(name: str, tmp_path: Path, studies: Path, **conf: str) -> LabelApp:
    folder = tmp_path / name
    shutil.copytree(APPS / name, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return load_app(folder, str(studies), conf)


def assert_on_the_images_grid(file: str) -> None:
    result = nib.load(file)
    assert result.shape == (40, 36, 30)
    assert np.array_equal(result.affine, AFFINE)
    assert result.get_data_dtype() == np.uint8


def test_the_example_app_infers_scores_and_chooses(tmp_path: Path, studies: Path) -> None:
    app = loaded("example_app", tmp_path, studies)
    info = app.info()
    assert info["models"]["segmentation"]["description"] == "MyInfer"
    assert info["trainers"]["segmentation"]["description"] == "MyTrainTask"
    assert_on_the_images_grid(app.infer({"model": "segmentation", "image": "i3"})["file"])
    scored = app.scoring({"method": "my_scoring"})
    assert scored is not None
    assert list(scored) == ["i3"]
    assert app.datastore().get_image_info("i3")["my_score"] == scored["i3"]
    assert app.scoring({"method": "my_scoring"}) == {}, "already scored by this model"
    assert app.next_sample({"strategy": "my_strategy"})["id"] == "i3"


@pytest.mark.slow
def test_the_example_app_trains_without_network_and_optimizer_and_publishes(tmp_path: Path, studies: Path) -> None:
    app = loaded("example_app", tmp_path, studies)
    before = app.model_file("segmentation")
    stats = app.train({"model": "segmentation", "max_epochs": 1, "name": "t"})
    assert stats["epoch"] == 1
    assert app.model_file("segmentation") != before
    assert_on_the_images_grid(app.infer({"model": "segmentation", "image": "i3"})["file"])


def test_an_unmodified_peer_app_lists_its_models_and_infers(tmp_path: Path, studies: Path) -> None:
    app = loaded("peer_app", tmp_path, studies)
    info = app.info()
    assert list(info["models"]) == ["deepedit", "deepedit_seg", "segmentation"]
    assert info["models"]["deepedit"]["type"] == "deepedit"
    assert info["labels"] == ["organ", "left kidney", "vessel"]
    clicks = {"organ": [[12, 10, 8]], "left kidney": [[3, 3, 3]], "background": []}
    for model in info["models"]:
        result = app.infer({"model": model, "image": "i3", "save_label": True, "label_tag": model, **clicks})
        assert (result["label"], result["tag"]) == ("i3", model)
        assert_on_the_images_grid(result["file"])
    assert list(app.datastore().get_labels_by_image_id("i3")) == list(info["models"])


def test_clicks_are_voxel_indices_of_the_stored_image_and_change_the_answers_input(
    tmp_path: Path, studies: Path
) -> None:
    app = loaded("peer_app", tmp_path, studies, models="deepedit")
    seen: list[torch.Tensor] = []
    task = app._infers["deepedit"]
    original = task.post_transforms  # type: ignore[attr-defined]

    def looking(data: dict[str, torch.Tensor]) -> object:
        seen.append(data["image"].clone())
        return original(data)

    task.post_transforms = looking  # type: ignore[attr-defined]
    app.infer({"model": "deepedit", "image": "i3", "organ": [], "left kidney": [[20, 9, 15]], "background": []})
    channels = seen[0].as_tensor() if hasattr(seen[0], "as_tensor") else seen[0]
    assert channels.shape == (4, 32, 32, 32)
    assert not channels[1].any()
    peak = np.unravel_index(int(channels[2].argmax()), (32, 32, 32))
    assert np.allclose(np.asarray(peak), np.array([20, 9, 15]) * 32 / np.array([40, 36, 30]), atol=1.0)


@pytest.mark.slow
def test_an_unmodified_peer_trainer_runs_with_its_finalize_hook_on_ignite_events(tmp_path: Path, studies: Path) -> None:
    app = loaded("peer_app", tmp_path, studies, models="segmentation")
    trainer = app._trainers["segmentation"]
    stats = app.train({"model": "segmentation", "max_epochs": 2, "name": "run"})
    assert trainer.epochs_seen == [1, 2]  # type: ignore[attr-defined]
    said = (tmp_path / "peer_app" / "model" / "segmentation" / "run" / "finalized.txt").read_text()
    assert said.endswith("True")
    assert set(stats["eval"]["metrics"]) == {"val_mean_dice", "val_organ_mean_dice", "val_vessel_mean_dice"}
    assert str(app.model_file("segmentation")).endswith("model/segmentation.pt")
    assert_on_the_images_grid(app.infer({"model": "segmentation", "image": "i3"})["file"])


def test_an_app_that_builds_what_is_not_there_yet_says_which_option_to_use(tmp_path: Path, studies: Path) -> None:
    with pytest.raises(
        NotThereYet, match=r"HistogramBasedGraphCut is not there yet\. Start the app with --conf scribbles"
    ):
        loaded("peer_app", tmp_path, studies, scribbles="true")
