"""Saves from several processes, and kills in the middle of them: what was accepted is there, and current."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from labelserver.datastore.local import LocalDatastore
from labelserver.domain.ids import FINAL, ImageId
from labelserver.storage.checksums import sha256_of
from tests.support.study_folder import number_in, put_image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
IMAGES = ["a", "deep/b", "c"]


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    for name in IMAGES:
        put_image(tmp_path / "studies", f"{name}.nii.gz")
    return tmp_path / "studies"


def start(studies: Path, count: int, first: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-m", "tests.support.saving_process", str(studies), str(count), str(first), *IMAGES]
    return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def promised_by(process: subprocess.Popen[str], text: str = "") -> list[tuple[str, int, int]]:
    """(image, number, value) of each whole line it printed after `text`; the last may have been cut by the kill."""
    assert process.stdout is not None
    with process.stdout as stdout:
        text += stdout.read()
    lines = [line.split() for line in text[: text.rfind("\n") + 1].splitlines()]
    return [(parts[0], int(parts[1]), int(parts[2])) for parts in lines if len(parts) == 3]


def wait_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def assert_kept(store: LocalDatastore, promised: list[tuple[str, int, int]]) -> None:
    """Every promised revision is readable with its value; the newest is the current label; no file is half."""
    newest: dict[str, int] = defaultdict(int)
    for image_id, number, value in promised:
        file = store.revision_file(ImageId(image_id), FINAL, number)
        assert number_in(file) == value
        newest[image_id] = max(newest[image_id], number)
    for image_id, number in newest.items():
        history = store.revisions(ImageId(image_id), FINAL)
        numbers = [r.number for r in history]
        assert numbers == sorted(set(numbers))
        current = store.current_revision(ImageId(image_id), FINAL)
        assert current.number == numbers[-1] >= number
        shown = Path(store.get_label_uri(image_id, "final"))
        assert sha256_of(shown) == current.sha256
        for revision in history:
            kept = store.revision_file(revision.image_id, FINAL, revision.number)
            assert sha256_of(kept) == revision.sha256
    assert store.problems() == []


@pytest.mark.parametrize(("processes", "saves"), [(4, 30), pytest.param(8, 250, marks=pytest.mark.soak)])
def test_processes_that_save_at_once_lose_nothing(processes: int, saves: int, studies: Path) -> None:
    running = [start(studies, saves, 1000 * n) for n in range(processes)]
    promised = [line for process in running for line in promised_by(process)]
    assert [process.wait() for process in running] == [0] * processes
    assert len(promised) == processes * saves
    assert len({(image, number) for image, number, _ in promised}) == processes * saves
    store = LocalDatastore(studies)
    for image_id in IMAGES:
        history = store.revisions(ImageId(image_id), FINAL)
        assert [r.number for r in history] == list(range(1, len(history) + 1))
        assert [r.parent for r in history] == [None, *range(1, len(history))]
    assert_kept(store, promised)
    store.close()


@pytest.mark.parametrize("kills", [20, pytest.param(300, marks=pytest.mark.soak)])
@pytest.mark.timeout(3000)
def test_a_kill_at_any_moment_loses_no_accepted_label(kills: int, studies: Path) -> None:
    chance = random.Random(20261120)
    promised: list[tuple[str, int, int]] = []
    for number in range(kills):
        process = start(studies, 10_000, number * 100 % 60_000 + 1)
        wait_ready(process)
        assert process.stdout is not None
        first_lines = "".join(process.stdout.readline() for _ in range(chance.randrange(4)))
        time.sleep(chance.uniform(0.0, 0.03))  # the moment of the kill, a few saves long, is what this test is about
        process.kill()
        promised += promised_by(process, first_lines)
        process.wait()
        store = LocalDatastore(studies)
        assert_kept(store, promised)
        store.close()
    assert len(promised) > kills / 2


def test_after_kills_even_the_index_may_go(studies: Path) -> None:
    promised: list[tuple[str, int, int]] = []
    for number in range(3):
        process = start(studies, 10_000, number * 100 + 1)
        wait_ready(process)
        time.sleep(0.1)
        process.kill()
        promised += promised_by(process)
        process.wait()
        for part in (studies / ".labelserver").glob("index.sqlite*"):
            part.unlink()
    store = LocalDatastore(studies)
    assert_kept(store, promised)
    store.close()
