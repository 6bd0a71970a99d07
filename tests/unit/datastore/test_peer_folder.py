"""A MONAI Label studies folder opens as it is; read-only studies stay as they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from labelserver.datastore.local import LocalDatastore
from labelserver.domain.errors import InvalidSetting
from labelserver.domain.ids import FINAL, ImageId
from labelserver.domain.labels import LabelSource
from labelserver.imaging.volumes import read_volume
from tests.support.study_folder import put_image, put_label

OpenStore = Callable[..., LocalDatastore]


def peer_folder(studies: Path, count: int = 3) -> None:
    """`count` images, all with an original, the first with a final label and a version."""
    objects = {}
    for number in range(count):
        name = f"img{number}"
        put_image(studies, f"{name}.nii.gz")
        put_label(studies / "labels/original" / f"{name}.nii.gz", 1)
        objects[name] = {
            "image": {"ext": ".nii.gz", "info": {"ts": 1000 + number, "name": f"{name}.nii.gz", "dice": number / 10}},
            "labels": {"original": {"ext": ".nii.gz", "info": {"ts": 2000, "model": "seg", "name": f"{name}.nii.gz"}}},
        }
    put_label(studies / "labels/final/img0.nii.gz", 2)
    put_label(studies / "labels/version_1/img0.nrrd", 3)
    final = {"ts": 3000, "name": "img0.nii.gz", "client_id": "Ada", "label_info": [{"name": "x", "idx": 1}]}
    objects["img0"]["labels"] = {
        "version_1": {"ext": ".nrrd", "info": {"ts": 2500, "name": "img0.nrrd"}},
        "final": {"ext": ".nii.gz", "info": final},
        "original": objects["img0"]["labels"]["original"],
    }
    document = {"name": "spleens", "description": "old", "images_dir": ".", "labels_dir": "labels", "objects": objects}
    (studies / "datastore_v2.json").write_text(json.dumps(document))
    (studies / ".lock").touch()


@pytest.mark.parametrize("count", [3, 20])  # beyond 16 label files the import goes in one batch
def test_images_labels_and_infos_are_taken_over(count: int, studies: Path, open_store: OpenStore) -> None:
    peer_folder(studies, count)
    index = (studies / "datastore_v2.json").read_bytes()
    store = open_store()
    assert (store.name(), store.description()) == ("spleens", "old")
    assert len(store.list_images()) == count
    assert store.get_image_info("img1") == {"ts": 1001, "name": "img1.nii.gz", "dice": 0.1}
    assert list(store.get_labels_by_image_id("img0")) == ["version_1", "final", "original"]
    assert store.get_label_info("img0", "final")["label_info"] == [{"name": "x", "idx": 1}]
    revision = store.current_revision(ImageId("img0"), FINAL)
    assert (revision.number, revision.provenance.source, revision.provenance.client) == (1, LabelSource.IMPORT, "Ada")
    assert (
        store.revision_file(ImageId("img0"), FINAL, 1).read_bytes()
        == (studies / "labels/final/img0.nii.gz").read_bytes()
    )
    assert store.status() == {
        "total": count,
        "completed": 1,
        "label_tags": {"final": 1, "original": count, "version_1": 1},
    }
    assert store.best_scored("dice") == (f"img{count - 1}", (count - 1) / 10)
    assert store.problems() == []
    assert (studies / "datastore_v2.json").read_bytes() == index
    store.refresh()
    assert len(store.revisions(ImageId("img0"), FINAL)) == 1


def test_the_peers_index_is_read_once(studies: Path, open_store: OpenStore) -> None:
    peer_folder(studies)
    store = open_store()
    store.update_image_info("img1", {"dice": 0.9})
    store.close()
    assert open_store().get_image_info("img1")["dice"] == 0.9


@pytest.mark.parametrize("content", ["", "{", "[]", '{"objects": {"img0": 3}}', '{"objects": []}'])
def test_a_damaged_peer_index_is_reported_and_the_files_are_taken(
    content: str, studies: Path, open_store: OpenStore
) -> None:
    peer_folder(studies)
    (studies / "datastore_v2.json").write_text(content)
    store = open_store()
    assert store.get_labeled_images() == ["img0"]
    assert [p.path for p in store.problems()] == ["datastore_v2.json"]


@pytest.mark.parametrize("count", [3, 20])
def test_labels_that_do_not_fit_are_left_and_reported(count: int, studies: Path, open_store: OpenStore) -> None:
    peer_folder(studies, count)
    wrong = put_label(studies / "labels/final/img1.nii.gz", shape=(4, 5, 7))
    (studies / "labels/final/img2.nii.gz").write_bytes(b"torn")
    store = open_store()
    assert store.get_labeled_images() == ["img0"]
    assert [p.path for p in store.problems()] == ["labels/final/img1.nii.gz", "labels/final/img2.nii.gz"]
    assert wrong.is_file()


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p.relative_to(folder)): (p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(folder.rglob("*"))}


def test_nothing_changes_in_read_only_studies(studies: Path, tmp_path: Path) -> None:
    peer_folder(studies)
    before = snapshot(studies)
    outside = tmp_path / "elsewhere"
    store = LocalDatastore(studies, read_only=True, state_dir=outside / ".labelserver")
    assert store.get_labeled_images() == ["img0"]
    store.save_label("img1", str(put_label(tmp_path / "l.nii.gz", 7)), "final", {})
    store.save_label("img0", str(put_label(tmp_path / "l.nii.gz", 8)), "final", {})
    assert store.get_label_uri("img1", "final") == str(outside / "labels/final/img1.nii.gz")
    store.update_image_info("img1", {"x": 1})
    store.remove_label("img0", "version_1")
    store.remove_image("img2")
    with pytest.raises(InvalidSetting, match="read-only"):
        store.add_image("new", str(studies / "img0.nii.gz"), {})
    store.close()
    again = LocalDatastore(studies, read_only=True, state_dir=outside / ".labelserver")
    assert again.list_images() == ["img0", "img1"]
    assert again.get_labeled_images() == ["img0", "img1"]
    assert list(again.get_labels_by_image_id("img0")) == ["final", "original"]
    assert read_volume(Path(again.get_label_uri("img0", "final"))).voxels.max() == 8
    assert snapshot(studies) == before
    again.close()


def test_read_only_studies_without_a_place_for_labels_can_be_read(
    studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_image(studies, "a.nii.gz")
    before = snapshot(studies)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = LocalDatastore(studies, read_only=True)
    assert store.list_images() == ["a"]
    assert store.get_label_uri("a", "final") == ""
    with pytest.raises(InvalidSetting, match="LABELSERVER_LABELS_DIR"):
        store.save_label("a", str(put_label(tmp_path / "l.nii.gz")), "final", {})
    assert snapshot(studies) == before
    store.close()
