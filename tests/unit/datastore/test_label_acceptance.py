"""What is accepted as a label, how it is kept, and what is refused without leaving a trace."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from labelserver.datastore import labels
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.errors import (
    DiskFull,
    GridsDiffer,
    ImageNotFound,
    LabelServerError,
    UnreadableFile,
    UnsupportedFormat,
)
from labelserver.domain.ids import FINAL, ORIGINAL, ImageId
from labelserver.domain.labels import LabelSource, Provenance
from labelserver.imaging.seg_nrrd import read_seg_nrrd, write_seg_nrrd
from labelserver.imaging.volumes import read_volume, write_volume
from labelserver.storage import atomic
from labelserver.storage.checksums import sha256_of
from tests.support.study_folder import AFFINE, SHAPE, put_image, put_label

OpenStore = Callable[..., LocalDatastore]
A = ImageId("a")


@pytest.fixture
def store(studies: Path, open_store: OpenStore) -> LocalDatastore:
    put_image(studies, "a.nii.gz")
    put_image(studies, "p.png", shape=(8, 6, 1))
    return open_store()


def all_files(folder: Path) -> dict[str, bytes]:
    """Content of everything but the index, whose pages may move, and the lock files."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not p.name.startswith("index.sqlite") and "locks" not in p.parts
    }


@pytest.mark.parametrize("read_once", [0, 1 << 20])
def test_the_copy_is_the_revision_even_if_somebody_writes_the_given_file_meanwhile(
    read_once: int, store: LocalDatastore, studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of large files, which are not held in memory, and of small ones."""
    file = put_label(tmp_path / "l.nii.gz")
    given = file.read_bytes()
    copy_beside = atomic.copy_beside

    def copied_late(content: bytes | Path, target: Path, **options: Any) -> Path:
        file.write_bytes(b"another program's")
        return copy_beside(content, target, **options)

    monkeypatch.setattr(labels, "_READ_ONCE", read_once)
    monkeypatch.setattr(labels.atomic, "copy_beside", copied_late)
    store.accept_label(A, file, ".nii.gz", FINAL, Provenance(), {})
    assert store.revision_file(A, FINAL, 1).read_bytes() == given
    assert (studies / "labels/final/a.nii.gz").read_bytes() == given


def test_a_save_writes_revision_json_and_current_copy(store: LocalDatastore, studies: Path, tmp_path: Path) -> None:
    file = put_label(tmp_path / "l.nii.gz")
    made_by = Provenance("Ada", "slicer", LabelSource.HAND, "segmentation", "7")
    revision = store.accept_label(A, file, ".nii.gz", FINAL, made_by, {"label_info": [{"name": "liver", "idx": 1}]})
    assert (revision.number, revision.parent, revision.provenance) == (1, None, made_by)
    assert revision.sha256 == sha256_of(file)
    kept = store.revision_file(A, FINAL, 1)
    assert kept.relative_to(studies).parts[:2] == (".labelserver", "revisions")
    assert kept.read_bytes() == file.read_bytes() == (studies / "labels/final/a.nii.gz").read_bytes()
    told = json.loads(kept.with_name("1.json").read_text())
    assert (told["image"]["id"], told["image"]["path"], told["tag"]) == ("a", "a.nii.gz", "final")
    assert (told["person"], told["client"], told["model"], told["sha256"]) == (
        "Ada",
        "slicer",
        "segmentation",
        revision.sha256,
    )
    assert store.get_label_info("a", "final")["label_info"] == [{"name": "liver", "idx": 1}]


def test_the_app_facing_save_names_the_model_of_original_labels(store: LocalDatastore, tmp_path: Path) -> None:
    file = str(put_label(tmp_path / "l.nii.gz"))
    store.save_label("a", file, "original", {"model": "segmentation", "client_id": "me"})
    store.save_label("a", file, "final", {"client_id": "me"})
    by_model = store.current_revision(A, ORIGINAL).provenance
    by_hand = store.current_revision(A, FINAL).provenance
    assert (by_model.source, by_model.model, by_model.client) == (LabelSource.MODEL, "segmentation", "me")
    assert (by_hand.source, by_hand.person) == (LabelSource.HAND, "me")


def test_a_flipped_label_is_reordered_and_recorded(store: LocalDatastore, tmp_path: Path) -> None:
    truth = np.random.default_rng(3).integers(0, 4, SHAPE).astype(np.uint8)
    flip = np.diag([-1.0, 1.0, -1.0, 1.0])
    flip[:3, 3] = (SHAPE[0] - 1, 0, SHAPE[2] - 1)
    write_volume(tmp_path / "l.nii.gz", truth[::-1, :, ::-1], AFFINE @ flip, compress=True)
    revision = store.accept_label(A, tmp_path / "l.nii.gz", ".nii.gz", FINAL, Provenance(), {"u": 1})
    stored = read_volume(Path(store.get_label_uri("a", "final")))
    assert np.array_equal(stored.voxels, truth)
    assert stored.voxels.dtype == np.uint8
    assert np.allclose(stored.grid.affine, AFFINE, atol=1e-5)
    expected = {"from": "LAI", "to": "RAS", "axes": [0, 1, 2], "reversed": [True, False, True]}
    assert revision.info == {"u": 1, "reordered": expected}
    assert store.get_label_info("a", "final")["reordered"] == expected
    assert not list((store.layout.spool).glob("*"))


def test_overlapping_segments_are_reordered_layer_by_layer(store: LocalDatastore, tmp_path: Path) -> None:
    layers = np.zeros((2, *SHAPE), np.uint8)
    layers[0, :3, 1], layers[1, 2:, 1:] = 1, 1
    flip = np.diag([-1.0, 1.0, 1.0, 1.0])
    flip[0, 3] = SHAPE[0] - 1
    path = tmp_path / "l.seg.nrrd"
    write_seg_nrrd(path, layers[:, ::-1], AFFINE @ flip, ["a", "b"], [(1, 2, 3), (4, 5, 6)], compress=True)
    store.save_label("a", str(path), "final", {})
    stored = read_seg_nrrd(Path(store.get_label_uri("a", "final")))
    assert [s.name for s in stored.segments] == ["a", "b"]
    for index in range(2):
        assert np.array_equal(stored.mask(index), layers[index] == 1)
    write_seg_nrrd(path, layers, AFFINE, ["a", "b"], [(1, 2, 3), (4, 5, 6)], compress=True)
    store.save_label("a", str(path), "final", {})
    assert Path(store.get_label_uri("a", "final")).read_bytes() == path.read_bytes()


def write_nifti(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    image = nib.Nifti1Image(voxels, affine, dtype=voxels.dtype)
    nib.save(image, path)


BAD_VOXELS = {
    "NaN": (np.full(SHAPE, np.nan, np.float32), UnreadableFile, "not numbers"),
    "fractions": (np.full(SHAPE, 0.5, np.float32), UnreadableFile, "fractions"),
    "negative": (np.full(SHAPE, -1, np.int16), UnreadableFile, "-1"),
    "too large": (np.full(SHAPE, 70000, np.int32), UnreadableFile, "70000"),
    "other shape": (np.zeros((4, 5, 7), np.uint8), GridsDiffer, r"shape \(4, 5, 7\) instead of \(4, 5, 6\)"),
    "channels": (np.zeros((*SHAPE, 3), np.uint8), UnreadableFile, "3 channels"),
}


@pytest.mark.parametrize("what", list(BAD_VOXELS))
def test_voxels_that_are_no_label_are_refused_and_nothing_changes(
    what: str, store: LocalDatastore, studies: Path, tmp_path: Path
) -> None:
    store.save_label("a", str(put_label(tmp_path / "l.nii.gz")), "final", {})
    before = all_files(studies)
    voxels, error, words = BAD_VOXELS[what]
    write_nifti(tmp_path / "bad.nii.gz", voxels)
    with pytest.raises(error, match=words):
        store.save_label("a", str(tmp_path / "bad.nii.gz"), "final", {"u": 9})
    assert all_files(studies) == before
    assert "u" not in store.get_label_info("a", "final")


def test_whole_numbers_in_float_voxels_are_stored_as_integers(store: LocalDatastore, tmp_path: Path) -> None:
    write_nifti(tmp_path / "f.nii.gz", np.full(SHAPE, 2.0, np.float32))
    store.save_label("a", str(tmp_path / "f.nii.gz"), "final", {})
    stored = read_volume(Path(store.get_label_uri("a", "final"))).voxels
    assert (stored.dtype, set(stored.ravel())) == (np.uint8, {2})


def test_float_voxels_from_a_client_are_refused(store: LocalDatastore, studies: Path, tmp_path: Path) -> None:
    before = all_files(studies)
    write_nifti(tmp_path / "f.nii.gz", np.full(SHAPE, 2.0, np.float32))
    with pytest.raises(UnreadableFile, match="float32"):
        store.accept_label(A, tmp_path / "f.nii.gz", ".nii.gz", FINAL, Provenance(), {}, floats=False)
    assert all_files(studies) == before


def moved(dx: float = 0.0, scale: float = 1.0) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] += dx
    affine[:3, 2] *= scale
    return affine


@pytest.mark.parametrize("affine", [moved(dx=2.0), moved(dx=0.3), moved(scale=1.1), np.eye(4)])
def test_a_label_that_lies_elsewhere_is_refused_with_the_difference(
    affine: np.ndarray, store: LocalDatastore, studies: Path, tmp_path: Path
) -> None:
    before = all_files(studies)
    put_label(tmp_path / "l.nii.gz", affine=affine)
    with pytest.raises(GridsDiffer, match="mm"):
        store.save_label("a", str(tmp_path / "l.nii.gz"), "final", {})
    assert all_files(studies) == before


def test_a_rounding_difference_is_the_same_place(store: LocalDatastore, tmp_path: Path) -> None:
    put_label(tmp_path / "l.nii.gz", affine=moved(dx=0.004))
    store.save_label("a", str(tmp_path / "l.nii.gz"), "final", {})
    assert Path(store.get_label_uri("a", "final")).read_bytes() == (tmp_path / "l.nii.gz").read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("l.nii.gz", b"", UnreadableFile),
        ("l.nii.gz", b"\x1f\x8bnoise", UnreadableFile),
        ("l.nii.gz", b"<html>", UnreadableFile),
        ("l.exe", b"MZ", UnsupportedFormat),
        ("l", b"x", UnsupportedFormat),
        ("l.json", b"", UnreadableFile),
    ],
)
def test_files_that_are_no_label_are_refused(
    name: str, content: bytes, error: type[LabelServerError], store: LocalDatastore, studies: Path, tmp_path: Path
) -> None:
    before = all_files(studies)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error):
        store.save_label("a", str(tmp_path / name), "final", {})
    assert all_files(studies) == before


def test_a_truncated_label_is_refused(store: LocalDatastore, studies: Path, tmp_path: Path) -> None:
    file = tmp_path / "l.nii.gz"
    write_nifti(file, np.random.default_rng(5).integers(0, 9, SHAPE).astype(np.uint8))
    file.write_bytes(file.read_bytes()[:-30])
    before = all_files(studies)
    with pytest.raises(UnreadableFile):
        store.save_label("a", str(file), "final", {})
    assert all_files(studies) == before


@pytest.mark.parametrize(("name", "content"), [("m.json", b"{}"), ("m.xml", b"<ASAP/>"), ("m.bin", b"\0\1")])
def test_labels_without_voxels_are_kept_as_they_are(
    name: str, content: bytes, store: LocalDatastore, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    store.save_label("a", str(tmp_path / name), "final", {})
    assert Path(store.get_label_uri("a", "final")).read_bytes() == content


def test_pictures_take_picture_labels_and_flat_volumes_of_their_size(store: LocalDatastore, tmp_path: Path) -> None:
    write_volume(tmp_path / "m.png", np.eye(8, 6, dtype=np.uint8)[:, :, None], np.eye(4), compress=True)
    store.save_label("p", str(tmp_path / "m.png"), "final", {})
    write_volume(tmp_path / "m.nii.gz", np.ones((8, 6, 1), np.uint8), np.diag([-1.0, -1, 1, 1]), compress=True)
    store.save_label("p", str(tmp_path / "m.nii.gz"), "final", {})
    write_volume(tmp_path / "w.png", np.zeros((6, 8, 1), np.uint8), np.eye(4), compress=True)
    with pytest.raises(GridsDiffer, match="6 x 8 x 1 pixels, its image 8 x 6 x 1"):
        store.save_label("p", str(tmp_path / "w.png"), "final", {})


def test_another_extension_replaces_the_file_of_the_same_label(
    store: LocalDatastore, studies: Path, tmp_path: Path
) -> None:
    store.save_label("a", str(put_label(tmp_path / "l.nii.gz")), "final", {})
    store.save_label("a", str(put_label(tmp_path / "l.nrrd")), "final", {})
    assert [p.name for p in (studies / "labels" / "final").iterdir()] == ["a.nrrd"]
    assert store.json()["objects"]["a"]["labels"]["final"]["ext"] == ".nrrd"
    assert len(store.revisions(A, FINAL)) == 2


def test_the_given_extension_decides_and_not_the_name_of_the_file(store: LocalDatastore, tmp_path: Path) -> None:
    spooled = put_label(tmp_path / "l.nii.gz").rename(tmp_path / "upload-1234")
    store.accept_label(A, spooled, ".nii.gz", FINAL, Provenance(), {})
    assert store.get_label_uri("a", "final").endswith("labels/final/a.nii.gz")


def test_a_label_without_its_image_is_refused(store: LocalDatastore, studies: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageNotFound):
        store.save_label("nobody", str(put_label(tmp_path / "l.nii.gz")), "final", {})
    (studies / "a.nii.gz").unlink()
    with pytest.raises(ImageNotFound):
        store.save_label("a", str(put_label(tmp_path / "l.nii.gz")), "final", {})


def test_a_full_disk_keeps_the_old_label_and_the_next_save_works(
    store: LocalDatastore, studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save_label("a", str(put_label(tmp_path / "l.nii.gz", 1)), "final", {})
    before = all_files(studies)
    calls = {"fsync": 0}

    def full(_: int) -> None:
        calls["fsync"] += 1
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(DiskFull):
            store.save_label("a", str(put_label(tmp_path / "m.nii.gz", 2)), "final", {})
    assert calls["fsync"] >= 1
    assert all_files(studies) == before
    store.save_label("a", str(put_label(tmp_path / "m.nii.gz", 2)), "final", {})
    assert [r.number for r in store.revisions(A, FINAL)] == [1, 2]


def test_a_save_whose_commit_fails_leaves_no_trace(
    store: LocalDatastore, studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.learn_labels(["liver"])  # a name once learnt stays
    before = all_files(studies)

    def broken(*_: object) -> None:
        raise DiskFull("No space left.")

    with monkeypatch.context() as patch:
        patch.setattr("labelserver.datastore.labels.insert_revision", broken)
        with pytest.raises(DiskFull):
            store.save_label("a", str(put_label(tmp_path / "l.nii.gz")), "final", {})
    after = all_files(studies)
    assert {k: v for k, v in after.items() if not k.startswith(".labelserver/revisions")} == before
    assert store.get_labeled_images() == []
    assert store.revisions(A, FINAL) == []


def test_files_of_a_crashed_save_are_not_overwritten(store: LocalDatastore, studies: Path, tmp_path: Path) -> None:
    store.save_label("a", str(put_label(tmp_path / "l.nii.gz")), "final", {})
    orphan = store.revision_file(A, FINAL, 1).with_name("2.json")
    orphan.write_text("left by a crash")
    store.save_label("a", str(put_label(tmp_path / "l.nii.gz")), "final", {})
    assert orphan.read_text() == "left by a crash"
    assert [r.number for r in store.revisions(A, FINAL)] == [1, 3]


def test_a_clock_that_runs_backwards_changes_no_order(
    store: LocalDatastore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save_label("a", str(put_label(tmp_path / "l.nii.gz", 1)), "final", {})
    monkeypatch.setattr("labelserver.datastore.labels.time.time", lambda: 1000.0)
    store.save_label("a", str(put_label(tmp_path / "l.nii.gz", 2)), "final", {})
    assert store.current_revision(A, FINAL).number == 2
    assert read_volume(Path(store.get_label_uri("a", "final"))).voxels.max() == 2


def test_removed_labels_and_images_keep_their_revisions_on_disk(
    store: LocalDatastore, studies: Path, tmp_path: Path
) -> None:
    store.save_label("a", str(put_label(tmp_path / "l.nii.gz")), "final", {})
    kept = store.revision_file(A, FINAL, 1)
    image = (studies / "a.nii.gz").read_bytes()
    store.remove_image("a")
    assert kept.is_file()
    assert not (studies / "a.nii.gz").exists()
    (trashed,) = (store.layout.state / "trash").rglob("*.nii.gz")
    assert trashed.read_bytes() == image


def test_a_label_file_of_another_images_name_is_never_overwritten(
    studies: Path, open_store: OpenStore, tmp_path: Path
) -> None:
    put_image(studies, "a.nii.gz")
    put_image(studies, "a.seg.nii.gz")
    store = open_store()
    store.save_label("a", str(put_label(tmp_path / "l.seg.nrrd", 1)), "final", {})
    store.save_label("a.seg", str(put_label(tmp_path / "m.nrrd", 2)), "final", {})
    assert read_volume(Path(store.get_label_uri("a", "final"))).voxels.max() == 1
    assert read_volume(Path(store.get_label_uri("a.seg", "final"))).voxels.max() == 2
