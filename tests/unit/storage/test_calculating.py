"""The environment of processes that calculate."""

from __future__ import annotations

import os

import pytest

from labelserver.storage.processes import MEMORY_HABITS, calculating_environment


def test_memory_is_kept_in_one_heap_of_large_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    told = dict(part.split("=") for part in calculating_environment()["GLIBC_TUNABLES"].split(":"))
    assert told == {name: str(value) for name, value in MEMORY_HABITS.items()}
    assert "GLIBC_TUNABLES" not in os.environ, "this process is the server, which calculates nothing"


def test_what_somebody_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1")
    assert calculating_environment()["GLIBC_TUNABLES"] == "glibc.malloc.check=1"
