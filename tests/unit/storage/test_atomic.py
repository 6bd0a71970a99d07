"""Readers see the old file or the new one."""

from __future__ import annotations

import errno
import os

import pytest

from labelserver.domain.errors import DiskFull, StorageFailed
from labelserver.storage import atomic


def test_a_failed_write_leaves_the_old_file_and_no_neighbour(tmp_path):
    target = tmp_path / "x.json"
    atomic.write_bytes(target, b"old")

    def write_half() -> None:
        with atomic.replacing(target) as stream:
            stream.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_full_disk_is_told_as_such(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match="No space left while writing x"):
        atomic.write_bytes(tmp_path / "x", b"new")
    assert list(tmp_path.iterdir()) == []


def test_another_error_keeps_its_reason(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageFailed, match=r"Could not write x"):
        atomic.write_bytes(tmp_path / "file" / "x", b"new")


def test_json_is_written_readably_and_without_nan(tmp_path):
    atomic.write_json(tmp_path / "x.json", {"größe": [1, 2.5, None]})
    assert "größe" in (tmp_path / "x.json").read_text()
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic.write_json(tmp_path / "y.json", {"x": float("nan")})
    assert not (tmp_path / "y.json").exists()


def test_copy_and_move_keep_the_bytes(tmp_path):
    source = tmp_path / "a"
    source.write_bytes(b"123")
    atomic.copy_file(source, tmp_path / "sub" / "b.nii.gz")
    atomic.move_file(source, tmp_path / "sub" / "c")
    assert (tmp_path / "sub" / "b.nii.gz").read_bytes() == b"123"
    assert (tmp_path / "sub" / "c").read_bytes() == b"123"
    assert not source.exists()


def test_sweep_removes_what_a_crash_left(tmp_path):
    (tmp_path / f"{atomic.TEMPORARY_PREFIX}abc").write_bytes(b"half")
    (tmp_path / "kept").write_bytes(b"x")
    assert atomic.sweep(tmp_path) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
