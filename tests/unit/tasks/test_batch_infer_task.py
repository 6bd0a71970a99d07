"""Batches: which images, how many, on which devices, and one bad image among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labelserver.contracts.datastore import Datastore
from labelserver.contracts.progress import Silent, watched_by
from labelserver.domain.errors import UnreadableFile
from labelserver.tasks.batch_infer import BatchInferImageType, BatchInferTask
from tests.fakes.memory_datastore import MemoryDatastore
from tests.support.study_folder import put_image, put_label


@pytest.fixture
def store(tmp_path: Path) -> MemoryDatastore:
    made = MemoryDatastore(tmp_path / "store")
    for name in ("b", "a", "c"):
        put_image(tmp_path, f"{name}.nii.gz")
        made.add_image(name, str(tmp_path / f"{name}.nii.gz"), {})
    made.save_label("a", str(put_label(tmp_path / "label.nii.gz", 1)), "final", {})
    return made


class Infer:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[dict[str, Any]] = []

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        self.requests.append(request)
        if request["image"] == "b":
            raise UnreadableFile("b is cut short.")
        file = self.folder / f"{request['image']}.out"
        file.write_bytes(b"mask")
        return {"label": request["image"], "file": str(file), "params": {}, "tag": "original"}


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ("all", ["a", "b", "c"]),
        ("labeled", ["a"]),
        (BatchInferImageType.IMAGES_UNLABELED, ["b", "c"]),
        (["c", "a"], ["a", "c"]),
        ("c", ["c"]),
        (None, ["a", "b", "c"]),
    ],
)
def test_images_are_chosen_and_sorted(store: MemoryDatastore, tmp_path: Path, images: Any, expected: list[str]) -> None:
    infer = Infer(tmp_path)
    request = {"model": "m"} if images is None else {"model": "m", "images": images}
    assert list(BatchInferTask()(request, store, infer)) == expected
    assert all(one["save_label"] and one["label_tag"] == "original" and "images" not in one for one in infer.requests)


def test_a_bad_image_has_its_error_and_the_others_their_answers_without_files(
    store: MemoryDatastore, tmp_path: Path
) -> None:
    results = BatchInferTask()({"model": "m", "max_workers": 2}, store, Infer(tmp_path))
    assert results["b"] == {"error": "b is cut short."}
    assert results["a"] == {"label": "a", "params": {}, "tag": "original"}
    assert not list(tmp_path.glob("*.out"))


def test_size_and_devices(store: MemoryDatastore, tmp_path: Path) -> None:
    infer = Infer(tmp_path)
    BatchInferTask()({"model": "m", "max_batch_size": 2, "multi_gpu": True}, store, infer)
    assert [one.get("device") for one in infer.requests] == [None, None]
    BatchInferTask()({"model": "m", "gpus": "0,1", "label_tag": "v2", "max_workers": 1}, store, infer)
    assert [one["device"] for one in infer.requests[2:]] == ["cuda:0", "cuda:1", "cuda:0"]
    assert {one["label_tag"] for one in infer.requests[2:]} == {"v2"}


def test_the_job_sees_progress_and_ends_the_batch(store: MemoryDatastore, tmp_path: Path) -> None:
    reports: list[Any] = []

    class Watched(Silent):
        def report(self, data: Any) -> None:
            reports.append(data)

        def should_stop(self) -> bool:
            return len(infer.requests) >= 1

    infer = Infer(tmp_path)
    with watched_by(Watched()):
        BatchInferTask()({"model": "m", "max_workers": 1}, store, infer)
    assert len(infer.requests) == 1
    assert reports[0] == {"total": 3, "done": 0, "failed": 0}
