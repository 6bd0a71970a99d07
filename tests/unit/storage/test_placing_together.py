"""Several files under one seal, and one waiting line for threads and processes."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from labelserver.domain.errors import DiskFull
from labelserver.storage.atomic import place_together
from labelserver.storage.locks import exclusive


def test_files_appear_whole_and_the_seal_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"voxels")
    order: list[str] = []
    rename = Path.replace
    monkeypatch.setattr(
        Path, "replace", lambda self, target: (order.append(Path(target).name), rename(self, target))[1]
    )
    place_together(tmp_path / "new" / "folder", [("1.nii.gz", source), ("1.json", b"{}")])
    assert order == ["1.nii.gz", "1.json"]
    assert (tmp_path / "new/folder/1.nii.gz").read_bytes() == b"voxels"
    assert sorted(p.name for p in (tmp_path / "new/folder").iterdir()) == ["1.json", "1.nii.gz"]


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
