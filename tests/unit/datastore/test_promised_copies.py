"""The copy below ``labels/`` is noted before it is put there: whoever looks in between finds the label all the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from labelserver.datastore import label_rows
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.ids import FINAL, ImageId
from labelserver.domain.labels import LabelSource
from labelserver.imaging.volumes import read_volume
from tests.support.study_folder import put_image, put_label

OpenStore = Callable[..., LocalDatastore]
A = ImageId("a")


class Killed(BaseException):
    """Stands for kill -9."""


@pytest.fixture
def store(studies: Path, open_store: OpenStore) -> LocalDatastore:
    put_image(studies, "a.nii.gz")
    return open_store()


@pytest.fixture
def save(store: LocalDatastore, tmp_path: Path) -> Callable[[int], None]:
    return lambda value: (
        store.save_label("a", str(put_label(tmp_path / f"{value}.nii.gz", value)), "final", {}) and None
    )


@pytest.fixture
def save_and_die(save: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Save, and be killed after the commit."""

    def die(*_: object) -> None:
        raise Killed

    def saved(value: int) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("labelserver.datastore.label_copies.LabelCopies.show", die)
            with pytest.raises(Killed):
                save(value)

    return saved


def shown(studies: Path) -> Path:
    return studies / "labels/final/a.nii.gz"


def value_in(path: Path) -> int:
    return int(read_volume(path).voxels.max())


def test_a_first_label_without_its_copy_is_shown_to_whoever_asks(
    store: LocalDatastore, studies: Path, save_and_die: Callable[[int], None]
) -> None:
    save_and_die(2)
    assert not shown(studies).exists()
    assert value_in(Path(store.get_label_uri("a", "final"))) == 2


def test_a_label_without_its_copy_is_not_taken_for_deleted(
    store: LocalDatastore, studies: Path, save: Callable[[int], None], save_and_die: Callable[[int], None]
) -> None:
    save(1)
    shown(studies).unlink()
    save_and_die(2)
    store.refresh_paths([shown(studies)])  # the watcher tells of the deletion only now
    assert value_in(shown(studies)) == 2
    assert store.get_labeled_images() == ["a"]


def test_a_copy_that_was_there_and_is_deleted_withdraws_the_label(
    store: LocalDatastore, studies: Path, save: Callable[[int], None]
) -> None:
    save(1)
    shown(studies).unlink()
    store.refresh_paths([shown(studies)])
    assert store.get_labeled_images() == []


def test_asking_for_a_label_does_not_undo_what_another_program_has_just_drawn(
    store: LocalDatastore, studies: Path, save: Callable[[int], None]
) -> None:
    save(1)
    put_label(shown(studies), 3)
    assert value_in(Path(store.get_label_uri("a", "final"))) == 3
    save(4)
    sources = [r.provenance.source for r in store.revisions(A, FINAL)]
    assert sources == [LabelSource.HAND, LabelSource.OUTSIDE_EDIT, LabelSource.HAND]
    assert value_in(shown(studies)) == 4


def test_a_save_over_a_label_without_its_copy_keeps_both(
    store: LocalDatastore, studies: Path, save: Callable[[int], None], save_and_die: Callable[[int], None]
) -> None:
    save(1)
    save_and_die(2)
    save(3)
    assert [r.provenance.source for r in store.revisions(A, FINAL)] == [LabelSource.HAND] * 3
    assert value_in(shown(studies)) == 3


def test_a_copy_older_than_a_minute_is_settled_and_its_deletion_is_meant(
    store: LocalDatastore, studies: Path, save: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(1)
    monkeypatch.setattr(label_rows, "SETTLED_AFTER_S", -1.0)
    store.refresh()
    shown(studies).unlink()
    store.refresh()
    assert store.get_labeled_images() == []


def test_a_copy_that_is_not_in_its_place_never_settles(
    store: LocalDatastore, studies: Path, save_and_die: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_and_die(1)
    monkeypatch.setattr(label_rows, "SETTLED_AFTER_S", -1.0)
    monkeypatch.setattr("labelserver.datastore.label_copies._SETTLE_EVERY_S", -1.0)
    put_image(studies, "b.nii.gz")
    store.refresh_paths([studies / "b.nii.gz"])
    store.save_label("b", str(put_label(studies.parent / "b.nii.gz")), "final", {})
    assert value_in(Path(store.get_label_uri("a", "final"))) == 1


def test_a_first_save_waits_six_times_for_the_disk_and_the_next_four_times(
    store: LocalDatastore, studies: Path, save: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Design note 0002 tells what each is for; the sixth and fourth is SQLite's own, which no Python sees."""
    put_image(studies, "b.nii.gz")
    store.refresh()
    store.save_label("b", str(put_label(studies.parent / "b.nii.gz", 1)), "final", {})  # knows the value, has folders
    synced: list[str] = []
    sync = os.fsync

    def counted(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", counted)
    save(1)
    assert [name.startswith(".tmp-") for name in synced] == [True, True, False, False, False]
    assert (synced[2], synced[4]) == ("final", "revisions")
    synced.clear()
    save(1)
    assert [name.startswith(".tmp-") for name in synced] == [True, True, False]
    assert synced[2] == "final"
