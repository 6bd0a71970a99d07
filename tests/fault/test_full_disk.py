"""A full disk: 507, the old label intact, and the next save works once there is space again."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelserver.api.application import create_app
from labelserver.bootstrap import Server, StoreInUse
from labelserver.datastore.local import LocalDatastore
from labelserver.datastore.uploads import UploadStore
from labelserver.domain.errors import DiskFull
from labelserver.domain.ids import FINAL, ImageId
from labelserver.domain.labels import Provenance
from labelserver.domain.paths import Roots
from labelserver.engine.event_hub import EventHub
from labelserver.imaging.volumes import read_volume, write_volume
from labelserver.model_store.local import LocalModelStore
from labelserver.settings import Settings
from tests.fakes.fake_engine import FakeEngine, described
from tests.support.in_process import InProcess
from tests.support.study_folder import AFFINE, put_image, put_label

A = ImageId("a")
#: a label that does not compress: 32 KiB of noise
NOISY = (64, 64, 16)


class Failing:
    """Makes the n-th change of a folder fail as on a full disk: opening for writing, mkdir, rename, sync."""

    def __init__(self) -> None:
        self.folder = ""
        self.at = 0
        self.count = 0
        sys.addaudithook(self._hear)  # stays for good; without `folder` it does nothing

    @contextmanager
    def in_(self, folder: Path, at: int) -> Iterator[None]:
        self.folder, self.at, self.count = str(folder), at, 0
        try:
            yield
        finally:
            self.folder = ""

    def step(self) -> None:
        self.count += 1
        if self.count == self.at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.folder or event not in ("open", "os.mkdir", "os.rename"):
            return
        path = arguments[0]
        if not isinstance(path, str) or not path.startswith(self.folder):
            return
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        self.step()


@pytest.fixture(scope="module")
def failing() -> Failing:
    return Failing()


def visible(studies: Path) -> dict[str, bytes]:
    """What other programs see: all files that are not hidden."""
    return {
        path.relative_to(studies).as_posix(): path.read_bytes()
        for path in sorted(studies.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(studies).parts)
    }


def test_wherever_a_save_meets_the_full_disk_it_is_refused_whole_or_accepted_whole(
    tmp_path: Path, failing: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step of a save in turn fails, until none does."""
    studies = tmp_path / "studies"
    put_image(studies, "a.nii.gz")
    store = LocalDatastore(studies)
    labels = [put_label(tmp_path / f"{n}.nii.gz", n) for n in (1, 2)]
    store.accept_label(A, labels[0], ".nii.gz", FINAL, Provenance(), {})
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (failing.folder and failing.step(), sync(descriptor))[1])
    refused = 0
    for step in range(1, 100):
        seen, history = visible(studies), store.revisions(A, FINAL)
        label = labels[step % 2]
        with failing.in_(studies, step):
            try:
                store.accept_label(A, label, ".nii.gz", FINAL, Provenance(), {})
                accepted = True
            except DiskFull:
                accepted = False
                refused += 1
            reached = failing.count >= step
        assert not list(studies.rglob(".tmp-*")), f"step {step} left a temporary file"
        if not accepted:
            assert (visible(studies), store.revisions(A, FINAL)) == (seen, history)
            store.accept_label(A, label, ".nii.gz", FINAL, Provenance(), {})
        assert len(store.revisions(A, FINAL)) == len(history) + 1
        shown = Path(store.get_label_uri("a", "final"))
        assert shown.read_bytes() == store.revision_file(A, FINAL, store.current_revision(A, FINAL).number).read_bytes()
        if not reached:
            break
    else:
        pytest.fail("a save has more than 100 steps")
    assert refused > 5
    again = LocalDatastore(studies)
    assert again.revisions(A, FINAL) == store.revisions(A, FINAL)
    assert again.problems() == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB in memory; needs the right to mount."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("this user may not mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Path], InProcess]]:
    opened: list[InProcess] = []

    def make(studies: Path) -> InProcess:
        app = tmp_path / "app"
        (app / "logs").mkdir(parents=True)
        settings = Settings(app_dir=app, studies=str(studies), auto_update_scoring=False, datastore_auto_reload=False)
        roots = Roots(app, studies, settings.state_dir)
        (roots.state / "spool").mkdir(parents=True)
        engine = FakeEngine(roots, described())
        store = LocalDatastore(studies, state_dir=roots.state)
        stores = StoreInUse(engine, store, lambda found: store)
        uploads = UploadStore(settings.upload_dir, settings.session_expiry, settings.max_upload_bytes)
        events = EventHub(app / "events.jsonl")
        http = InProcess(create_app(Server(settings, roots, engine, LocalModelStore(app), uploads, stores, events)))
        opened.append(http.__enter__())
        return http

    yield make
    for http in opened:
        http.__exit__()


@pytest.mark.slow
def test_a_disk_that_really_is_full_answers_507_until_there_is_space(
    small_disk: Path, tmp_path: Path, serve: Callable[[Path], InProcess]
) -> None:
    studies = small_disk / "studies"
    put_image(studies, "a.nii.gz", shape=NOISY)
    http = serve(studies)
    chance = np.random.default_rng(0)

    def save() -> tuple[int, Path]:
        file = tmp_path / "l.nii.gz"
        write_volume(file, chance.integers(0, 200, NOISY, dtype=np.uint8), AFFINE, compress=True)
        with file.open("rb") as stream:
            answer = http.put("/datastore/label", params={"image": "a"}, files={"label": ("l.nii.gz", stream)})
        assert answer.status_code in (200, 507), answer.text
        if answer.status_code == 507:
            assert "space" in answer.json()["detail"]
        return answer.status_code, file

    def shown() -> Any:
        (tmp_path / "shown.nii.gz").write_bytes(http.get("/datastore/label", params={"label": "a"}).content)
        return read_volume(tmp_path / "shown.nii.gz").voxels

    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1 << 20))
    last = None
    for _ in range(200):
        status, file = save()
        if status == 507:
            break
        last = read_volume(file).voxels
    assert status == 507
    assert last is not None
    for _ in range(5):  # whatever is left is used up; nothing changes for those who read
        assert save()[0] == 507
        assert np.array_equal(shown(), last)
    assert http.get("/info/").json()["problem_count"] == 0
    ballast.unlink()
    status, file = save()
    assert status == 200
    assert np.array_equal(shown(), read_volume(file).voxels)
