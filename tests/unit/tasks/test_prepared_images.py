"""One budget for what was made of images: least recently used out first, made once, told by content."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from labelserver.tasks.prepared_images import PreparedImages, content_of, shared, size_bytes_of

MIB = 1 << 20


def mib(count: int = 1) -> np.ndarray:
    return np.zeros(count * MIB, np.uint8)


def test_a_value_is_made_once_and_then_found() -> None:
    images = PreparedImages(10 * MIB)
    first = images.get_or_make("a", mib)
    assert images.get_or_make("a", lambda: pytest.fail("made twice")) is first
    counters = images.counters()
    assert (counters.made, counters.found, counters.held, counters.held_bytes) == (1, 1, 1, MIB)


def test_the_least_recently_used_makes_room() -> None:
    images = PreparedImages(3 * MIB)
    for name in "abc":
        images.get_or_make(name, mib)
    images.get_or_make("a", mib)
    images.get_or_make("d", mib)
    assert [name for name in "abcd" if images.find(name) is not None] == ["a", "c", "d"]
    assert images.counters().evicted == 1
    assert images.counters().held_bytes == 3 * MIB


def test_what_exceeds_the_budget_is_used_and_not_kept() -> None:
    images = PreparedImages(2 * MIB)
    images.get_or_make("small", mib)
    assert images.get_or_make("large", lambda: mib(3)).nbytes == 3 * MIB
    assert images.find("large") is None
    assert images.find("small") is not None


def test_a_failure_keeps_nothing_and_the_next_caller_tries_again() -> None:
    images = PreparedImages(MIB)
    with pytest.raises(ValueError, match="no"):
        images.get_or_make("a", lambda: (_ for _ in ()).throw(ValueError("no")))
    assert images.get_or_make("a", lambda: 3) == 3


def test_threads_that_want_the_same_value_make_it_once() -> None:
    images = PreparedImages(10 * MIB)
    entered, go_on = threading.Event(), threading.Event()
    made: list[int] = []

    def make() -> np.ndarray:
        made.append(1)
        entered.set()
        assert go_on.wait(30)
        return mib()

    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(images.get_or_make("a", make))) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert entered.wait(30)
    images.get_or_make("b", mib)  # another value does not wait
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert len(made) == 1
    assert len(found) == 4
    assert all(value is found[0] for value in found)


def test_sizes_count_what_is_kept_alive() -> None:
    tensor = torch.zeros(1000, 100)
    assert size_bytes_of(tensor) == size_bytes_of(tensor[0]) == 400_000
    assert size_bytes_of(torch.zeros(()).expand(10, 10)) == 4
    assert size_bytes_of({"a": [np.zeros(10), "text"]}) >= 84


def test_content_is_told_by_file_not_by_name(tmp_path: Path) -> None:
    path, link = tmp_path / "a.nii.gz", tmp_path / "link.nii.gz"
    path.write_bytes(b"one")
    link.symlink_to(path)
    before = content_of(path)
    assert content_of(link) == before
    stat = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert content_of(path) != before
    assert content_of(tmp_path / "missing") is None
    folder = tmp_path / "series"
    folder.mkdir()
    (folder / "1.dcm").write_bytes(b"1")
    series = content_of(folder)
    (folder / "2.dcm").write_bytes(b"2")
    assert content_of(folder) != series


def test_the_process_shares_one_table() -> None:
    assert shared() is shared()
    assert shared().budget_bytes > 0
