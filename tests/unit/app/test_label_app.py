"""The app class: hooks in order, gates, requests, names that are unknown, jobs. Nothing here needs torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import nibabel as nib
import numpy as np
import pytest

from labelserver import settings as settings_module
from labelserver.app.describing import describe
from labelserver.app.job_requests import over_http
from labelserver.app.label_app import LabelApp
from labelserver.contracts.datastore import Datastore
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.errors import (
    ImageNotFound,
    InvalidParams,
    NoImageGiven,
    NotThereYet,
    TaskNotFound,
    UnreadableFile,
)
from labelserver.domain.jobs import JobKind
from labelserver.settings import Settings
from labelserver.tasks.base import InferTask, ScoringMethod, Strategy, TrainTask
from labelserver.tasks.strategies import First, HighestScore, Random
from tests.fakes.memory_datastore import MemoryDatastore


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_module, "_installed", Settings())


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    folder = tmp_path / "studies"
    folder.mkdir()
    for name in ("a", "b"):
        nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([2.0, 2, 2, 1])), folder / f"{name}.nii.gz")
    return folder


class Copies(InferTask):
    """Answers with a mask of ones"""

    def is_valid(self) -> bool:
        return True

    def __call__(self, request: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        self.seen = request
        if request.get("array"):
            return np.ones(3), {"params": 1}
        image = nib.load(request["image"])
        mask = np.ones_like(np.asarray(image.dataobj), dtype=np.uint8)
        target = Path(request["out"]) / "mask.nii.gz"
        nib.save(nib.Nifti1Image(mask, image.affine), target)
        return str(target), {"label_names": {"x": 1}}


class Trainer(TrainTask):
    lineage = ""

    def __init__(self, publish_path: str) -> None:
        super().__init__("Trains")
        self._publish_path = publish_path

    def stats(self) -> dict[str, Any]:
        return {"epoch": 3}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        return {"request": request}


class Scores(ScoringMethod):
    """Counts"""

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        return {"count": len(datastore.list_images()), **request}


class App(LabelApp):
    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.order: list[str] = []
        self.mine = "kept"
        self.infer_task = Copies(labels=["b", "a"])
        super().__init__(app_dir, studies, conf, name="Test", description="An app", version="3")

    def init_datastore(self) -> Datastore:
        self.order.append("datastore")
        return super().init_datastore()

    def init_infers(self) -> dict[str, InferTask]:
        self.order.append("infers")
        assert len(self.datastore().list_images()) == 2
        hidden = Copies()
        hidden.is_valid = lambda: False  # type: ignore[method-assign]
        self.infer_task.path = [str(Path(self.app_dir) / "model" / "model.pt")]  # type: ignore[attr-defined]
        return {"Histogram+GraphCut": self.infer_task, "helper": hidden}

    def init_trainers(self) -> dict[str, TrainTask]:
        self.order.append("trainers")
        return {"trainer": Trainer(str(Path(self.app_dir) / "model" / "model.pt")), "second": Trainer("")}

    def init_strategies(self) -> dict[str, Strategy]:
        self.order.append("strategies")
        return {"first": First(), "mine": HighestScore(key="my")}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        self.order.append("scoring")
        return {"count": Scores()}

    def init_batch_infer(self) -> Any:
        self.order.append("batch")
        return super().init_batch_infer()


@pytest.fixture
def app(tmp_path: Path, studies: Path) -> App:
    (tmp_path / "app" / "model").mkdir(parents=True)
    return App(app_dir=str(tmp_path / "app"), studies=str(studies), conf={"k": "v"})


def test_importing_the_app_loads_neither_torch_nor_monai() -> None:
    code = (
        "import sys, labelserver.app.loading, labelserver.app.describing, labelserver.tasks.batch_infer;"
        "import labelserver.app.label_app as a; a.LabelApp;"
        "print([m for m in ('torch', 'monai', 'ignite') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_hooks_run_in_order_inside_the_base_initialiser_and_attributes_survive(app: App) -> None:
    assert app.order == ["datastore", "infers", "trainers", "strategies", "scoring", "batch"]
    assert app.mine == "kept"
    assert (app.conf, app.name, app.version) == ({"k": "v"}, "Test", "3")
    assert app.model_dir.endswith("app/model")


def test_gates_leave_out_what_is_switched_off(tmp_path: Path, studies: Path) -> None:
    settings_module.install(
        Settings(tasks_train=False, tasks_strategy=False, tasks_scoring=False, tasks_batch_infer=False)
    )
    app = App(str(tmp_path / "app"), str(studies), {})
    assert app.order == ["datastore", "infers"]
    assert (app.info()["trainers"], app.info()["strategies"], app.info()["scoring"]) == ({}, {}, {})
    with pytest.raises(InvalidParams, match="switched off"):
        app.batch_infer({"model": "Histogram+GraphCut", "images": "all"})


def test_info_lists_valid_tasks_with_labels_as_names(app: App) -> None:
    info = app.info()
    assert list(info["models"]) == ["Histogram+GraphCut"]
    assert info["models"]["Histogram+GraphCut"]["description"] == "Answers with a mask of ones"
    assert info["labels"] == ["b", "a"]
    assert info["trainers"]["trainer"]["description"] == "Trains"
    assert info["train_stats"] == {"trainer": {"epoch": 3}, "second": {"epoch": 3}}
    assert info["datastore"]["total"] == 2
    assert "config" not in info


def test_r13_the_apps_own_labels_come_first_and_every_models_label_is_there(tmp_path: Path, studies: Path) -> None:
    class Two(LabelApp):
        def init_infers(self) -> dict[str, InferTask]:
            return {"m": Copies(labels={"z": 2, "a": 1, "background": 0}), "n": Copies(labels=["q", "a"])}

    app = Two(tmp_path / "app", studies, {}, labels={"own": 1})
    assert app.info()["labels"] == ["own", "a", "z", "q"]


def test_r40_a_strategy_named_random_is_always_there(app: App) -> None:
    assert isinstance(app._strategies["random"], Random)


def test_infer_by_id_copies_the_request_and_saves_under_the_tag(app: App, tmp_path: Path) -> None:
    request = {"model": "Histogram+GraphCut", "image": "a", "out": str(tmp_path), "nested": {"x": [1]}}
    result = app.infer(request)
    assert (result["label"], result["file"], result["tag"]) == (result["file"], str(tmp_path / "mask.nii.gz"), "")
    assert app.infer_task.seen["description"] == "Answers with a mask of ones"
    assert app.infer_task.seen["nested"] is not request["nested"]
    assert result["params"] == {"label_names": {"x": 1}}
    saved = app.infer({**request, "save_label": True, "label_tag": "v2"})
    assert (saved["label"], saved["tag"]) == ("a", "v2")
    assert app.infer({**request, "save_label": "true"})["tag"] == "original"
    assert list(app.datastore().get_labels_by_image_id("a")) == ["v2", "original"]
    assert app.datastore().get_label_info("a", "v2")["model"] == "Histogram+GraphCut"


def test_an_absolute_path_is_used_as_it_is_and_never_saved(app: App, studies: Path, tmp_path: Path) -> None:
    request = {"model": "Histogram+GraphCut", "image": str(studies / "a.nii.gz"), "out": str(tmp_path)}
    assert app.infer({**request, "save_label": True})["tag"] == ""
    assert app.datastore().get_labels_by_image_id("a") == {}


def test_a_relative_path_is_an_id_and_nothing_else(app: App, monkeypatch: pytest.MonkeyPatch, studies: Path) -> None:
    monkeypatch.chdir(studies)
    with pytest.raises(ImageNotFound, match=r"no image 'a\.nii\.gz'"):
        app.infer({"model": "Histogram+GraphCut", "image": "a.nii.gz"})


def test_arrays_go_in_and_come_out_beside_the_file(app: App) -> None:
    result = app.infer({"model": "Histogram+GraphCut", "image": np.zeros(3), "array": True, "save_label": True})
    assert result["file"] is None
    assert np.array_equal(result["array"], np.ones(3))


@pytest.mark.parametrize("image", [None, "", 3])
def test_no_image_says_so(app: App, image: Any) -> None:
    with pytest.raises(NoImageGiven):
        app.infer({"model": "Histogram+GraphCut", "image": image})


def test_a_damaged_image_is_told_apart_from_a_failing_task(app: App, tmp_path: Path, studies: Path) -> None:
    whole = (studies / "a.nii.gz").read_bytes()
    damaged = tmp_path / "cut.nii.gz"
    damaged.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableFile):
        app.infer({"model": "Histogram+GraphCut", "image": str(damaged), "out": str(tmp_path)})
    with pytest.raises(KeyError):
        app.infer({"model": "Histogram+GraphCut", "image": "a"})


def test_unknown_names_say_what_there_is(app: App) -> None:
    for call, what in (
        (lambda: app.infer({"model": "nope", "image": "a"}), "model 'nope'"),
        (lambda: app.train({"model": "nope"}), "trainer 'nope'"),
        (lambda: app.scoring({"method": "nope"}), "scoring method 'nope'"),
        (lambda: app.next_sample({"strategy": "nope"}), "strategy 'nope'"),
        (lambda: app.batch_infer({"model": "nope"}), "model 'nope'"),
        (lambda: app.model_info("nope"), "model 'nope'"),
        (lambda: app.async_training("nope"), "train 'nope'"),
    ):
        with pytest.raises(TaskNotFound, match=what):
            call()
    with pytest.raises(InvalidParams, match=r"Name a model: one of Histogram\+GraphCut, helper"):
        app.infer({"image": "a"})


def test_next_sample_train_and_scoring(app: App) -> None:
    assert app.next_sample({"strategy": "first"})["id"] == "a"
    assert app.next_sample({})["id"] in ("a", "b")
    assert app.train({"model": "trainer", "max_epochs": 2})["request"]["max_epochs"] == 2
    assert app.scoring({"method": "count", "x": 1}) == {"count": 2, "method": "count", "x": 1}


def test_batch_infer_saves_each_answer(app: App, tmp_path: Path) -> None:
    results = app.batch_infer({"model": "Histogram+GraphCut", "images": "all", "out": str(tmp_path), "max_workers": 1})
    assert {name: result["tag"] for name, result in results.items()} == {"a": "original", "b": "original"}
    assert app.datastore().status()["label_tags"] == {"original": 2}


def test_model_file_and_info(app: App, tmp_path: Path) -> None:
    assert app.model_info("Histogram+GraphCut") is None
    weights = tmp_path / "app" / "model" / "model.pt"
    weights.write_bytes(b"abc")
    app.infer_task.get_path = lambda validate=True: str(weights)  # type: ignore[method-assign]
    info = app.model_info("Histogram+GraphCut")
    assert info is not None
    assert info["checksum"] == "SHA256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert info["modified_time"] == int(weights.stat().st_mtime)


def test_a_slide_is_not_there_yet_and_anything_else_is_inferred(app: App, tmp_path: Path) -> None:
    with pytest.raises(NotThereYet, match="slides"):
        app.infer_wsi({"model": "Histogram+GraphCut", "image": "/data/x.svs"})
    request = {"model": "Histogram+GraphCut", "image": "a", "out": str(tmp_path)}
    assert app.infer_wsi(request)["file"]


def test_jobs_are_asked_for_one_by_one_with_their_overrides(app: App) -> None:
    asked: list[tuple[Any, ...]] = []

    def submit(kind: JobKind, task: str, params: dict[str, Any], enqueue: bool) -> Any:
        asked.append((kind, task, params, enqueue))
        return {"id": len(asked)}

    app.use_jobs(submit)
    assert app.async_training("trainer", {"name": "cvat_1", "trainer": {"max_epochs": 2}}) == {"id": 1}
    assert app.async_training(None, {"name": "x"}) == {"trainer": {"id": 2}, "second": {"id": 3}}
    assert app.async_training(["second"]) == {"second": {"id": 4}}
    app.async_scoring(None)
    app.async_batch_infer("Histogram+GraphCut", ["a"], {"label_tag": "v2"})
    assert asked == [
        (JobKind.TRAIN, "trainer", {"name": "cvat_1", "max_epochs": 2}, False),
        (JobKind.TRAIN, "trainer", {"name": "x"}, True),
        (JobKind.TRAIN, "second", {"name": "x"}, True),
        (JobKind.TRAIN, "second", {}, False),
        (JobKind.SCORING, "count", {}, True),
        (JobKind.BATCH_INFER, "Histogram+GraphCut", {"label_tag": "v2", "images": ["a"]}, False),
    ]


def test_without_an_engine_jobs_go_through_the_servers_door() -> None:
    seen: list[httpx.Request] = []

    def door(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(429 if "busy" in request.url.path else 200, json={"id": "1"})

    submit = over_http(Settings(port=8123), httpx.MockTransport(door))
    assert submit(JobKind.TRAIN, "a b+c", {"x": 1}, True) == {"id": "1"}
    assert str(seen[0].url) == "http://127.0.0.1:8123/train/a%20b%2Bc?enqueue=true"
    assert submit(JobKind.SCORING, "busy", {}, False) is None
    submit(JobKind.BATCH_INFER, "m", {"images": "all"}, False)
    assert str(seen[2].url) == "http://127.0.0.1:8123/batch/infer/m?images=all"

    def nobody(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    assert over_http(Settings(), httpx.MockTransport(nobody))(JobKind.TRAIN, "t", {}, False) is None


def test_a_trainer_and_the_models_that_read_its_file_share_a_lineage(app: App) -> None:
    assert app.lineages() == {
        "trainer": "Histogram+GraphCut",
        "Histogram+GraphCut": "Histogram+GraphCut",
        "second": "second",
    }
    assert app._trainers["trainer"].lineage == "Histogram+GraphCut"  # type: ignore[attr-defined]


def test_uploads_and_server_mode(app: App) -> None:
    app.server_mode(True)
    assert app.sessions() is app.sessions()
    app.cleanup_sessions()
    assert app.on_save_label("a", "a") is None
    app.on_init_complete()


def test_a_description_tells_the_server_what_it_may_do_itself(app: App, tmp_path: Path) -> None:
    (tmp_path / "app" / "main.py").write_text("")
    described = describe(app, tmp_path / "app", {"k": "v"})
    assert described.overridden_hooks == frozenset()
    assert described.ready_made_strategies == {"first": "First", "random": "Random"}
    assert described.local_store == {}
    assert described.trainer_models["trainer"] == "Histogram+GraphCut"
    assert "datastore" not in described.info
    assert "train_stats" not in described.info
    assert list(described.info["models"]) == ["Histogram+GraphCut"]  # type: ignore[arg-type]


def test_overridden_hooks_other_stores_and_added_info_are_told(tmp_path: Path, studies: Path) -> None:
    class Other(LabelApp):
        def init_datastore(self) -> Datastore:
            return MemoryDatastore(tmp_path / "memory")

        def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
            return {}

        def on_save_label(self, image_id: str, label_id: str) -> dict[str, Any]:
            return {"more": 1}

        def info(self) -> dict[str, Any]:
            return {**super().info(), "extra": np.float32(1.5)}

    class OtherFolder(LabelApp):
        def init_datastore(self) -> Datastore:
            return LocalDatastore(self.studies, images_dir=".", labels_dir="masks", extensions=("*.nii.gz",))

    (tmp_path / "main.py").write_text("")
    described = describe(Other(tmp_path, studies, {}), tmp_path, {})
    assert described.overridden_hooks == {"next_sample", "on_save_label"}
    assert described.local_store is None
    assert described.info["extra"] == 1.5
    store = describe(OtherFolder(tmp_path, studies, {}), tmp_path, {}).local_store
    assert store is not None
    assert (store["labels_dir"], store["extensions"]) == ("masks", ["*.nii.gz"])


def test_a_folder_with_one_dicom_series_is_inferred_as_a_file_that_vanishes(
    app: App, tmp_path: Path, real_data: Path
) -> None:
    request = {"model": "Histogram+GraphCut", "out": str(tmp_path)}
    result = app.infer({**request, "image": str(real_data / "ct-dicom" / "series")})
    truth = nib.load(real_data / "ct-dicom" / "labels.nii.gz")
    assert sorted(nib.load(result["file"]).shape) == sorted(truth.shape)
    assert app.infer_task.seen["image"].endswith("series.nii.gz")
    assert not Path(app.infer_task.seen["image"]).exists()
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UnreadableFile, match="no DICOM series"):
        app.infer({**request, "image": str(tmp_path / "nothing")})
