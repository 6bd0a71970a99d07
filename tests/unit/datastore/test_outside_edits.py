"""Other programs write below ``labels/`` too: nothing of theirs is overwritten, nothing of ours is lost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from labelserver.datastore.local import LocalDatastore
from labelserver.domain.ids import FINAL, ImageId
from labelserver.domain.labels import LabelSource
from labelserver.imaging.volumes import read_volume
from tests.support.study_folder import AFFINE, SHAPE, put_image, put_label

OpenStore = Callable[..., LocalDatastore]
A = ImageId("a")


@pytest.fixture
def store(studies: Path, open_store: OpenStore, tmp_path: Path) -> LocalDatastore:
    """One image with one accepted label of value 1."""
    put_image(studies, "a.nii.gz")
    store = open_store()
    store.save_label("a", str(put_label(tmp_path / "l.nii.gz", 1)), "final", {"label_info": [{"name": "x", "idx": 1}]})
    return store


def value_of(store: LocalDatastore) -> int:
    return int(read_volume(Path(store.get_label_uri("a", "final"))).voxels.max())


def by_refresh(store: LocalDatastore, *_: Path) -> None:
    store.refresh()


def by_watcher(store: LocalDatastore, *paths: Path) -> None:
    store.refresh_paths(paths)


noticing = pytest.mark.parametrize("notice", [by_refresh, by_watcher])
Notice = Callable[..., None]


@noticing
def test_a_changed_file_becomes_a_new_revision(notice: Notice, store: LocalDatastore, studies: Path) -> None:
    file = put_label(studies / "labels/final/a.nii.gz", 3)
    notice(store, file)
    found = store.revisions(A, FINAL)
    assert [r.provenance.source for r in found] == [LabelSource.HAND, LabelSource.OUTSIDE_EDIT]
    assert (found[1].parent, value_of(store)) == (1, 3)
    assert store.get_label_info("a", "final")["label_info"] == [{"name": "x", "idx": 1}]
    notice(store, file)
    assert len(store.revisions(A, FINAL)) == 2


@noticing
def test_a_touched_file_is_no_edit(notice: Notice, store: LocalDatastore, studies: Path) -> None:
    file = studies / "labels/final/a.nii.gz"
    os.utime(file, (1, 1))
    notice(store, file)
    assert len(store.revisions(A, FINAL)) == 1


@noticing
def test_a_new_label_file_is_taken_for_its_image(notice: Notice, store: LocalDatastore, studies: Path) -> None:
    put_image(studies, "deep/b.nrrd")
    store.refresh()
    file = put_label(studies / "labels/second/deep/b.nii.gz", 2)
    notice(store, file)
    assert store.get_labels_by_image_id("deep/b") == {"second": "deep/b"}
    assert store.get_label_uri("deep/b", "second") == str(file)


@noticing
def test_a_flipped_edit_is_brought_onto_the_image(notice: Notice, store: LocalDatastore, studies: Path) -> None:
    flip = np.diag([-1.0, 1.0, 1.0, 1.0])
    flip[0, 3] = SHAPE[0] - 1
    file = put_label(studies / "labels/final/a.nii.gz", 3, affine=AFFINE @ flip)
    notice(store, file)
    stored = read_volume(file)
    assert np.allclose(stored.grid.affine, AFFINE, atol=1e-5)
    assert stored.voxels[-1].max() == 3
    assert stored.voxels[0].max() == 0


@noticing
def test_a_deleted_file_withdraws_the_label_and_its_return_brings_it_back(
    notice: Notice, store: LocalDatastore, studies: Path, tmp_path: Path
) -> None:
    file = studies / "labels/final/a.nii.gz"
    settle(store)
    kept = shutil.move(file, tmp_path / "kept.nii.gz")
    notice(store, file)
    assert store.get_unlabeled_images() == ["a"]
    assert store.get_label_uri("a", "final") == ""
    assert len(store.revisions(A, FINAL)) == 1
    shutil.move(kept, file)
    notice(store, file)
    assert store.get_labeled_images() == ["a"]
    assert [r.number for r in store.revisions(A, FINAL)] == [1]


def settle(store: LocalDatastore) -> None:
    """Pretend that the copy was put in place long ago."""
    with store._index.writing() as connection:
        connection.execute("UPDATE labels SET pending = 0")


def test_a_copy_that_a_power_cut_took_is_made_again(
    store: LocalDatastore, studies: Path, open_store: OpenStore
) -> None:
    (studies / "labels/final/a.nii.gz").unlink()
    assert open_store().get_labeled_images() == ["a"]
    assert value_of(store) == 1


def test_the_loss_of_the_whole_labels_folder_loses_no_label(
    store: LocalDatastore, studies: Path, open_store: OpenStore
) -> None:
    settle(store)
    shutil.rmtree(studies / "labels")
    store.close()
    again = open_store()
    assert again.get_labeled_images() == ["a"]
    assert value_of(again) == 1


@noticing
@pytest.mark.parametrize("damage", [b"", b"\x1f\x8bnoise" * 20])
def test_a_torn_file_is_set_aside_and_the_accepted_label_is_put_back(
    damage: bytes, notice: Notice, store: LocalDatastore, studies: Path
) -> None:
    file = studies / "labels/final/a.nii.gz"
    file.write_bytes(damage)
    os.utime(file, (1_000_000, 1_000_000))
    notice(store, file)
    assert value_of(store) == 1
    assert [p.path for p in store.problems()] == ["labels/final/a.nii.gz"]
    (kept,) = store.layout.quarantine.iterdir()
    assert kept.read_bytes() == damage


def test_a_file_that_is_still_being_written_is_looked_at_again(store: LocalDatastore, studies: Path) -> None:
    file = studies / "labels/final/a.nii.gz"
    whole = put_label(studies.parent / "m.nii.gz", 4).read_bytes()
    file.write_bytes(whole[:40])
    assert store.refresh_paths([file]) == {file}
    assert store.problems() == []
    file.write_bytes(whole)
    assert store.refresh_paths([file]) == set()
    assert value_of(store) == 4


@noticing
def test_an_edit_on_another_grid_is_reported_and_not_taken(
    notice: Notice, store: LocalDatastore, studies: Path
) -> None:
    file = put_label(studies / "labels/final/a.nii.gz", 3, shape=(4, 5, 7))
    notice(store, file)
    assert value_of(store) == 1
    assert "shape (4, 5, 7)" in store.problems()[0].reason


@noticing
def test_a_file_that_fits_no_image_stays_and_is_reported(notice: Notice, store: LocalDatastore, studies: Path) -> None:
    file = put_label(studies / "labels/final/stranger.nii.gz")
    notice(store, file)
    assert file.is_file()
    assert [(p.path, p.reason) for p in store.problems()] == [
        ("labels/final/stranger.nii.gz", "This label belongs to no image.")
    ]
    file.unlink()
    notice(store, file)
    assert store.problems() == []


def test_an_older_revisions_bytes_are_replaced_by_the_current_one(
    store: LocalDatastore, studies: Path, tmp_path: Path
) -> None:
    store.save_label("a", str(put_label(tmp_path / "m.nii.gz", 2)), "final", {})
    shutil.copyfile(store.revision_file(A, FINAL, 1), studies / "labels/final/a.nii.gz")
    store.refresh()
    assert value_of(store) == 2
    assert len(store.revisions(A, FINAL)) == 2


def test_a_second_file_of_the_same_label_replaces_it(store: LocalDatastore, studies: Path) -> None:
    put_label(studies / "labels/final/a.nrrd", 5)
    store.refresh()
    assert store.get_label_uri("a", "final").endswith("a.nrrd")
    assert not (studies / "labels/final/a.nii.gz").exists()
    assert value_of(store) == 5


def test_a_crash_between_commit_and_copy_is_healed(
    store: LocalDatastore, studies: Path, tmp_path: Path, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Stands for kill -9."""

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("labelserver.datastore.label_copies.LabelCopies.show", die)
        with pytest.raises(Killed):
            store.save_label("a", str(put_label(tmp_path / "m.nii.gz", 2)), "final", {})
    assert read_volume(studies / "labels/final/a.nii.gz").voxels.max() == 1
    assert value_of(store) == 2  # asked for before anybody looked at the folder
    with monkeypatch.context() as patch:
        patch.setattr("labelserver.datastore.label_copies.LabelCopies.show", die)
        with pytest.raises(Killed):
            store.save_label("a", str(put_label(tmp_path / "n.nii.gz", 3)), "final", {})
    store.close()
    assert value_of(open_store()) == 3
    assert [r.number for r in store.revisions(A, FINAL)] == [1, 2, 3]


@pytest.mark.parametrize("remove", [lambda s: s.remove_label("a", "final"), lambda s: s.remove_image("a")])
def test_an_edit_that_nobody_noticed_yet_survives_a_removal(
    remove: Callable[[LocalDatastore], None], store: LocalDatastore, studies: Path
) -> None:
    edited = put_label(studies / "labels/final/a.nii.gz", 3).read_bytes()
    remove(store)
    newest = store.revisions(A, FINAL)[-1]
    assert (newest.number, newest.provenance.source) == (2, LabelSource.OUTSIDE_EDIT)
    assert store.revision_file(A, FINAL, 2).read_bytes() == edited
    assert store.get_label_uri("a", "final") == ""
