"""What changes in the studies is told wherever it happens, and what the server keeps for itself is not even watched."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from watchfiles import awatch

from labelserver.datastore import folder_watch
from labelserver.datastore.folder_watch import FolderWatch
from labelserver.datastore.layout import locate

#: s; until a change is told
PATIENCE_S = 30


def watched(studies: Path, test: Callable[[FolderWatch], Awaitable[None]]) -> None:
    """Run `test` with a watch that has begun."""

    async def run() -> None:
        watching = FolderWatch(locate(studies, ".", "labels", "datastore_v2.json", None, None, read_only=False))
        try:
            await watching.open()
            await test(watching)
        finally:
            await watching.close()
            await watching.close()

    asyncio.run(run())


async def until_told(watching: FolderWatch, *paths: Path) -> None:
    """Wait for all of `paths`, or for folders that they are in."""
    missing = set(paths)
    async with asyncio.timeout(PATIENCE_S):
        while missing:
            told = await watching.changed()
            missing = {path for path in missing if not any(path.is_relative_to(one) for one in told)}


def watched_inodes() -> set[int]:
    """Inodes that this process has asked the system to watch (``/proc/self/fdinfo``)."""
    found = set()
    for info in Path("/proc/self/fdinfo").iterdir():
        try:
            lines = info.read_text().splitlines()
        except FileNotFoundError:
            continue
        found |= {int(line.split("ino:")[1].split()[0], 16) for line in lines if line.startswith("inotify")}
    return found


def test_changes_are_told_wherever_they_happen(tmp_path: Path) -> None:
    (tmp_path / "site" / "deep").mkdir(parents=True)
    (tmp_path / "labels" / "final").mkdir(parents=True)

    async def test(watching: FolderWatch) -> None:
        files = [tmp_path / "a.nii.gz", tmp_path / "site" / "b.nii.gz", tmp_path / "site" / "deep" / "c.nii.gz"]
        files.append(tmp_path / "labels" / "final" / "a.nii.gz")
        for file in files:
            file.write_bytes(b"x")
        await until_told(watching, *files)
        for file in files:
            file.unlink()
        await until_told(watching, *files)
        assert await watching.changed() == set()

    watched(tmp_path, test)


def test_a_new_folder_is_watched_and_one_that_came_back_again(tmp_path: Path) -> None:
    async def test(watching: FolderWatch) -> None:
        folder = tmp_path / "new"
        for number in range(3):
            folder.mkdir()
            await until_told(watching, folder)
            file = folder / f"{number}.nii.gz"
            file.write_bytes(b"x")
            await until_told(watching, file)
            shutil.rmtree(folder)
            await until_told(watching, folder)

    watched(tmp_path, test)


def test_what_happens_in_a_folder_does_not_make_the_watch_anew(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()

    async def test(watching: FolderWatch) -> None:
        before = watching._deep
        (folder / "a.nii.gz").write_bytes(b"x")
        folder.chmod(0o700)
        await until_told(watching, folder / "a.nii.gz")
        (tmp_path / "b.nii.gz").write_bytes(b"x")
        await until_told(watching, tmp_path / "b.nii.gz")
        assert watching._deep is before
        (tmp_path / "new").mkdir()
        await until_told(watching, tmp_path / "new")
        assert watching._deep is not before

    watched(tmp_path, test)


def test_what_was_put_into_a_folder_before_it_was_watched_is_looked_at(tmp_path: Path) -> None:
    async def test(watching: FolderWatch) -> None:
        file = tmp_path / "new" / "deep" / "a.nii.gz"
        file.parent.mkdir(parents=True)
        await watching._follow()
        file.write_bytes(b"x")
        await until_told(watching, file)

    watched(tmp_path, test)


def test_folders_of_the_server_and_hidden_ones_are_not_watched(tmp_path: Path) -> None:
    kept = tmp_path / ".labelserver" / "revisions" / "a" / "final"
    hidden = tmp_path / ".git" / "objects"
    seen = tmp_path / "site" / "deep"
    for folder in (kept, hidden, seen):
        folder.mkdir(parents=True)

    async def test(watching: FolderWatch) -> None:
        inodes = watched_inodes()
        assert seen.stat().st_ino in inodes
        assert tmp_path.stat().st_ino in inodes
        for folder in (kept, *list(kept.parents)[:3], hidden, hidden.parent):
            assert folder.stat().st_ino not in inodes, folder
        (kept / "1.nii.gz").write_bytes(b"x")
        (tmp_path / "site" / ".tmp-1.nii.gz").write_bytes(b"x")
        for _ in range(3):
            assert await watching.changed() == set()

    watched(tmp_path, test)


def test_a_hidden_folder_is_watched_if_labels_lie_in_it(tmp_path: Path) -> None:
    (tmp_path / ".labels" / "final").mkdir(parents=True)
    layout = locate(tmp_path, ".", ".labels", "datastore_v2.json", None, None, read_only=False)
    assert FolderWatch(layout)._inner_folders() == {tmp_path / ".labels"}


def test_where_the_system_cannot_watch_so_many_folders_they_are_looked_at_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "site").mkdir()

    def limited(*folders: Path, force_polling: bool | None, **options: Any) -> AsyncIterator[Any]:
        if not force_polling:
            raise OSError("OS file watch limit reached.")
        return awatch(*folders, force_polling=True, **{**options, "poll_delay_ms": 50})

    monkeypatch.setattr(folder_watch, "awatch", limited)

    async def test(watching: FolderWatch) -> None:
        file = tmp_path / "site" / "a.nii.gz"
        file.write_bytes(b"x")
        await until_told(watching, file)

    with caplog.at_level(logging.WARNING):
        watched(tmp_path, test)
    assert [record.getMessage() for record in caplog.records if "max_user_watches" in record.getMessage()]
    assert len(caplog.records) == 1


def test_a_watch_that_ended_begins_anew_with_a_look_at_everything(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()

    async def test(watching: FolderWatch) -> None:
        assert watching._deep is not None
        watching._deep.task.cancel()
        await asyncio.wait([watching._deep.task])
        assert await watching.changed() == {tmp_path}
        file = tmp_path / "site" / "a.nii.gz"
        file.write_bytes(b"x")
        await until_told(watching, file)

    watched(tmp_path, test)


def test_studies_that_went_away_are_watched_when_they_are_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_watch, "_TRY_AGAIN_S", 0.0)
    studies = tmp_path / "studies"
    studies.mkdir()

    async def test(watching: FolderWatch) -> None:
        studies.rename(tmp_path / "elsewhere")
        with pytest.raises(FileNotFoundError):
            await watching.changed()
        studies.mkdir()
        assert await watching.changed() == {studies}
        (studies / "a.nii.gz").write_bytes(b"x")
        await until_told(watching, studies / "a.nii.gz")

    watched(studies, test)
