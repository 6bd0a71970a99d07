"""Opening a folder that a server watches costs no look at it; opening any other finds what changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from labelserver.datastore.local import LocalDatastore
from labelserver.datastore.scanning import Scanner
from labelserver.datastore.watching import watch
from labelserver.storage.locks import held_if_free, is_held
from tests.support.study_folder import put_image

OpenStore = Callable[..., LocalDatastore]


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Folders that were walked through, "" for all."""
    found: list[str] = []
    walk = Scanner.walk

    def counted(self: Scanner, below: str = "", *, deep: bool = True) -> object:
        found.append(below)
        return walk(self, below, deep=deep)

    monkeypatch.setattr(Scanner, "walk", counted)
    return found


def test_a_watched_folder_is_not_looked_at_again(studies: Path, open_store: OpenStore, walks: list[str]) -> None:
    store = open_store()
    before = store.list_images()
    walks.clear()
    with held_if_free(store.layout.watch_lock) as free:
        assert free
        with held_if_free(store.layout.watch_lock) as again:
            assert not again
        assert open_store().list_images() == before
        assert walks == []
    assert not is_held(store.layout.watch_lock)
    put_image(studies, "late.nii.gz")
    assert open_store().list_images() == sorted([*before, "late"])
    assert walks == [""]


def test_a_server_opens_at_once_and_looks_when_it_watches(
    studies: Path, open_store: OpenStore, walks: list[str]
) -> None:
    before = open_store().list_images()
    put_image(studies, "late.nii.gz")
    walks.clear()
    store = open_store(look_soon=True)
    assert store.list_images() == before
    assert walks == []

    async def until_seen() -> None:
        stop = asyncio.Event()
        watching = asyncio.create_task(watch(store, stop=stop))
        async with asyncio.timeout(20):
            while "late" not in store.list_images():
                await asyncio.sleep(0.01)
            assert is_held(store.layout.watch_lock)
        stop.set()
        await watching

    asyncio.run(until_seen())
    assert not is_held(store.layout.watch_lock)


def test_a_folder_never_looked_at_is_looked_at_whoever_watches(
    studies: Path, open_store: OpenStore, walks: list[str]
) -> None:
    put_image(studies, "early.nii.gz")
    store = open_store(look_soon=True)
    before = store.list_images()
    assert before == ["early"]
    assert walks == [""]
    store.upkeep.backup()
    store.close()
    store.layout.index_file.unlink()
    again = open_store(look_soon=True)
    assert again.list_images() == before
    assert walks == ["", ""]
