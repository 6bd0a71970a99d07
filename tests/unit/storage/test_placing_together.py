"""Several files under one seal, and one waiting line for threads and processes."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from labelserver.domain.errors import DiskFull
from labelserver.storage.atomic import Taken, place_together
from labelserver.storage.locks import exclusive


def test_files_appear_whole_and_the_seal_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"voxels")
    order: list[str] = []
    rename = os.replace
    monkeypatch.setattr(os, "replace", lambda path, target: (order.append(Path(target).name), rename(path, target))[1])
    place_together(tmp_path / "new" / "folder", [("1.nii.gz", source), ("1.json", b"{}")])
    assert order == ["1.nii.gz", "1.json"]
    assert (tmp_path / "new/folder/1.nii.gz").read_bytes() == b"voxels"
    assert sorted(p.name for p in (tmp_path / "new/folder").iterdir()) == ["1.json", "1.nii.gz"]


def test_a_file_that_is_given_away_is_moved_not_copied(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.write_bytes(b"voxels")
    inode = given.stat().st_ino
    place_together(tmp_path / "folder", [("1.nii.gz", Taken(given)), ("1.json", b"{}")])
    assert (tmp_path / "folder/1.nii.gz").stat().st_ino == inode
    assert not given.exists()


def test_a_file_that_is_given_away_may_lie_on_another_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tmp_path / "given"
    given.write_bytes(b"voxels")

    def other_disk(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "rename", other_disk)
    place_together(tmp_path / "folder", [("1.nii.gz", Taken(given)), ("1.json", b"{}")])
    assert (tmp_path / "folder/1.nii.gz").read_bytes() == b"voxels"


def test_a_failure_leaves_no_seal_and_no_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []

    def second_fails(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", second_fails)
    with pytest.raises(DiskFull):
        place_together(tmp_path, [("1.nii.gz", b"x"), ("1.json", b"{}")])
    assert list(tmp_path.iterdir()) == []


def test_names_appear_only_after_the_contents_are_on_the_disk_and_made_folders_are_synced_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[str, str]] = []
    sync, rename = os.fsync, os.replace

    def noted_sync(descriptor: int) -> None:
        steps.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        sync(descriptor)

    def noted_rename(path: str, target: str) -> None:
        steps.append(("rename", Path(target).name))
        rename(path, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_rename)
    place_together(tmp_path / "new" / "folder", [("1.nii.gz", b"x"), ("1.json", b"{}")])
    assert [what for what, _ in steps] == ["sync", "sync", "rename", "rename", "sync", "sync", "sync"]
    assert all(name.startswith(".tmp-") for _, name in steps[:2])
    assert {name for _, name in steps[4:]} == {"folder", "new", tmp_path.name}


def test_who_waits_for_a_lock_gets_it_when_it_is_free(tmp_path: Path) -> None:
    order: list[str] = []
    waiting = threading.Event()

    def second() -> None:
        waiting.set()
        with exclusive(tmp_path / "locks" / "a"):
            order.append("second")

    with exclusive(tmp_path / "locks" / "a"), exclusive(tmp_path / "locks" / "b"):
        thread = threading.Thread(target=second)
        thread.start()
        waiting.wait()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
