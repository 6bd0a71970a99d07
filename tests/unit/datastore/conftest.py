"""A studies folder and stores on it that are closed at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from labelserver.datastore.local import LocalDatastore

OpenStore = Callable[..., LocalDatastore]


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    folder = tmp_path / "studies"
    folder.mkdir()
    return folder


@pytest.fixture
def open_store(studies: Path) -> Iterator[OpenStore]:
    """Opens `studies` (again and again, if asked)."""
    opened: list[LocalDatastore] = []

    def make(**arguments: Any) -> LocalDatastore:
        opened.append(LocalDatastore(studies, **arguments))
        return opened[-1]

    yield make
    for store in opened:
        store.close()
