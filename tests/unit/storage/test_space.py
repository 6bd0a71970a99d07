"""A disk with less than 5 % free is told of in time."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from labelserver.storage.space import low_space

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(("free", "told"), [(4, True), (5, False), (50, False), (0, True)])
def test_below_five_percent_is_told(free: int, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100 * 2**30, (100 - free) * 2**30, free * 2**30))
    said = low_space(tmp_path)
    assert bool(said) is told
    if told:
        assert "labelserver prune" in said


def test_a_folder_that_is_not_there_is_nothing_to_tell(tmp_path: Path) -> None:
    assert low_space(tmp_path / "nowhere") == ""
