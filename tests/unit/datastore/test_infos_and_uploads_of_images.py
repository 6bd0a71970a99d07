"""Infos, scores, uploaded images, the dataset archive, and the watcher."""

from __future__ import annotations

import asyncio
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from labelserver.datastore.local import LocalDatastore
from labelserver.datastore.watching import watch
from labelserver.domain.errors import Conflict, LabelNotFound, UnreadableFile, UnsupportedFormat
from labelserver.storage.mounts import is_network_folder
from tests.support.study_folder import put_image, put_label, put_series

OpenStore = Callable[..., LocalDatastore]


def test_infos_become_plain_json(studies: Path, open_store: OpenStore) -> None:
    put_image(studies, "a.nii.gz")
    store = open_store()
    store.update_image_info(
        "a",
        {
            "f32": np.float32(0.5),
            "i": np.int64(3),
            "nan": float("nan"),
            "array": np.arange(3),
            "nested": {"inf": np.inf, "tuple": (1, 2), 5: Path("/secret/x.pt")},
            "flag": np.bool_(True),
        },
    )
    info = open_store().get_image_info("a")
    assert info["f32"] == 0.5
    assert isinstance(info["i"], int)
    assert (info["nan"], info["array"], info["flag"]) == (None, [0, 1, 2], True)
    assert info["nested"] == {"inf": None, "tuple": [1, 2], "5": "x.pt"}
    json.dumps(store.json(), allow_nan=False)


def test_the_best_scored_unlabeled_image_is_found(studies: Path, open_store: OpenStore, tmp_path: Path) -> None:
    for name in "abcde":
        put_image(studies, f"{name}.nii.gz")
    store = open_store()
    for name, score in zip("abcde", (0.1, 0.9, 0.5, 0.9, -2), strict=True):
        store.update_image_info(name, {"my_score": np.float32(score), "my_ts": 5})
    assert [i for i, _ in store.ordered_by_score("my_score")] == ["b", "d", "c", "a", "e"]
    assert [i for i, _ in store.ordered_by_score("my_score", highest_first=False)] == ["e", "a", "c", "b", "d"]
    store.save_label("b", str(put_label(tmp_path / "l.nii.gz")), "final", {})
    store.save_label("d", str(put_label(tmp_path / "l.nii.gz")), "original", {})
    best = store.best_scored("my_score")
    assert best is not None
    assert best[0] == "d"
    assert store.best_scored("my_score", exclude={"d"}) == ("c", 0.5)
    assert [i for i, _ in store.ordered_by_score("my_score", unlabeled_only=False)] == ["b", "d", "c", "a", "e"]
    store.remove_label("b", "final")
    assert [i for i, _ in store.ordered_by_score("my_score")] == ["b", "d", "c", "a", "e"]
    store.update_image_info("b", {"my_score": None})
    assert [i for i, _ in store.ordered_by_score("my_score")] == ["d", "c", "a", "e"]
    store.update_image_info("c", {"epistemic_entropy": {"score": 3.5, "ts": 1}})
    assert store.best_scored("epistemic_entropy") == ("c", 3.5)
    assert store.best_scored("nothing") is None


def test_many_equal_scores_are_all_given_once(studies: Path, open_store: OpenStore) -> None:
    put_image(studies, "i000.nii.gz")
    for n in range(1, 600):
        (studies / f"i{n:03}.nii.gz").hardlink_to(studies / "i000.nii.gz")
    store = open_store()
    with store._index.writing() as connection:
        connection.execute("INSERT INTO scores (image_id, key, value, waiting) SELECT id, 's', 1.0, 1 FROM images")
    for highest_first in (True, False):
        assert [i for i, _ in store.ordered_by_score("s", highest_first=highest_first)] == store.list_images()


def test_a_score_lookup_and_the_counts_run_along_an_index(studies: Path, open_store: OpenStore) -> None:
    put_image(studies, "a.nii.gz")
    store = open_store()
    questions = {
        "SELECT image_id FROM scores WHERE key = 'x' AND waiting = 1 ORDER BY value DESC, image_id": "scores_by_value",
        "SELECT COUNT(*) FROM images WHERE state = 'present'": "images_by_state",
        "SELECT tag, COUNT(*) FROM labels WHERE shown = 1 GROUP BY tag": "labels_shown",
        "SELECT id FROM images WHERE path = 'x' AND series = ''": "images_by_place",
    }
    with store._index.reading() as connection:
        for question, index in questions.items():
            plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {question}"))
            assert index in plan
            assert "TEMP B-TREE" not in plan


@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_a_damaged_upload_changes_nothing(damage: str, studies: Path, open_store: OpenStore, tmp_path: Path) -> None:
    put_image(studies, "a.nii.gz")
    store = open_store()
    before = (studies / "a.nii.gz").read_bytes()
    data = {"cut": before[:-20], "noise": b"\x1f\x8b" + b"x" * 90, "empty": b""}[damage]
    (tmp_path / "u.nii.gz").write_bytes(data)
    for image_id in ("a", "new", "deep/new"):
        with pytest.raises(UnreadableFile):
            store.add_image(image_id, str(tmp_path / "u.nii.gz"), {})
    assert (studies / "a.nii.gz").read_bytes() == before
    assert sorted(p.name for p in studies.iterdir()) == [".labelserver", "a.nii.gz"]
    assert store.list_images() == ["a"]


def test_uploads_of_unknown_types_are_refused(studies: Path, open_store: OpenStore, tmp_path: Path) -> None:
    (tmp_path / "u.exe").write_bytes(b"MZ")
    with pytest.raises(UnsupportedFormat, match=r"\.nii\.gz"):
        open_store().add_image("a", str(tmp_path / "u.exe"), {})


def test_a_labeled_image_is_only_replaced_by_one_in_the_same_place(
    studies: Path, open_store: OpenStore, tmp_path: Path
) -> None:
    put_image(studies, "a.nii.gz")
    store = open_store()
    store.save_label("a", str(put_label(tmp_path / "l.nii.gz")), "final", {"u": 1})
    moved = put_image(tmp_path, "moved.nii.gz", affine=np.eye(4))
    before = (studies / "a.nii.gz").read_bytes()
    with pytest.raises(Conflict, match="has labels"):
        store.add_image("a", str(moved), {})
    assert (studies / "a.nii.gz").read_bytes() == before
    same = put_image(tmp_path, "same.nrrd")
    store.add_image("a", str(same), {"fresh": True})
    assert store.get_image_uri("a") == str(studies / "a.nrrd")
    assert not (studies / "a.nii.gz").exists()
    assert store.get_labeled_images() == ["a"]
    trashed = [p for p in (store.layout.state / "trash").rglob("*") if p.is_file()]
    assert [p.read_bytes() for p in trashed] == [before]
    store.refresh()
    assert store.list_images() == ["a"]


def test_a_dicom_folder_is_not_overwritten_and_goes_to_the_trash_when_removed(
    studies: Path, open_store: OpenStore, tmp_path: Path
) -> None:
    put_series(studies / "ct", "1.2.3")
    store = open_store()
    with pytest.raises(Conflict, match="DICOM"):
        store.add_image("ct", str(put_image(tmp_path, "u.nii.gz")), {})
    store.remove_image("ct")
    assert list((studies / "ct").iterdir()) == []
    assert len(list((store.layout.state / "trash").rglob("*.dcm"))) == 4


def test_a_removed_id_can_be_uploaded_again_and_begins_anew(
    studies: Path, open_store: OpenStore, tmp_path: Path
) -> None:
    put_image(studies, "a.nii.gz")
    store = open_store()
    store.update_image_info("a", {"dice": 0.5})
    store.save_label("a", str(put_label(tmp_path / "l.nii.gz")), "final", {})
    store.remove_image("a")
    assert store.add_image("a", str(put_image(tmp_path, "u.nrrd")), {}) == "a"
    assert "dice" not in store.get_image_info("a")
    assert store.get_labels_by_image_id("a") == {}


def test_the_archive_holds_labeled_cases_and_the_index(studies: Path, open_store: OpenStore, tmp_path: Path) -> None:
    for name in ("a.nii.gz", "deep/b.nrrd", "c.nii.gz"):
        put_image(studies, name)
    put_series(studies / "ct", "1.2.3")
    store = open_store()
    with pytest.raises(LabelNotFound):
        store.get_dataset_archive()
    store.save_label("a", str(put_label(tmp_path / "l.nii.gz")), "final", {})
    store.save_label("deep/b", str(put_label(tmp_path / "l.nii.gz")), "final", {})
    path = Path(store.get_dataset_archive())
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == [
            "image/a.nii.gz",
            "image/deep/b.nrrd",
            "label/a.nii.gz",
            "label/deep/b.nii.gz",
            "metadata.json",
        ]
        assert json.loads(archive.read("metadata.json")) == store.json()
    with zipfile.ZipFile(store.get_dataset_archive(1)) as archive:
        assert len(archive.namelist()) == 3


def test_files_that_arrive_change_or_vanish_are_noticed(studies: Path, open_store: OpenStore, tmp_path: Path) -> None:
    put_image(studies, "a.nii.gz")
    store = open_store(auto_reload=True)
    store.save_label("a", str(put_label(tmp_path / "l.nii.gz", 1)), "final", {})

    async def until(found: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not found():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)

    async def scenario() -> None:
        stop = asyncio.Event()
        watching = asyncio.create_task(watch(store, stop=stop))
        try:
            probe = 0
            while store.list_images() == ["a"]:  # the watch takes a moment to be in place
                probe += 1
                put_image(studies, f"probe{probe}.nii.gz")
                await asyncio.sleep(0.2)
            put_image(studies, "deep/b.nii.gz")
            await until(lambda: "deep/b" in store.list_images())
            put_label(studies / "labels/final/a.nii.gz", 5)
            await until(lambda: len(store.revisions("a", "final")) == 2)  # type: ignore[arg-type]
            (studies / "a.nii.gz").unlink()
            await until(lambda: "a" not in store.list_images())
        finally:
            stop.set()
            await watching

    asyncio.run(scenario())


def test_network_folders_are_told_from_local_ones(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nserver:/x {tmp_path}/net nfs4 rw 0 0\n")
    (tmp_path / "net").mkdir()
    assert is_network_folder(tmp_path / "net", mounts)
    assert not is_network_folder(tmp_path, mounts)
    assert not is_network_folder(tmp_path, tmp_path / "missing")
