"""Two processes train one network on the CPU: every case once an epoch, the same result as one process, one version."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path

import pytest
import torch

from labelserver.datastore.local import LocalDatastore
from labelserver.domain.ids import JobId
from labelserver.domain.jobs import JobKind, JobSpec, Signal
from labelserver.domain.paths import Roots
from labelserver.engine.job_folder import JobFolder
from labelserver.engine.local import child_settings
from labelserver.model_store.local import LocalModelStore
from labelserver.settings import Settings
from labelserver.tasks.network_cache import read_state
from tests.support.live_server import wait_until
from tests.unit.tasks.training_fakes import make_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CASES = 5


class Place:
    """An app folder, labeled studies, and jobs run in it without a server."""

    def __init__(self, folder: Path) -> None:
        self.roots = Roots(folder / "app", folder / "studies", folder / "studies" / ".labelserver")
        shutil.copytree(Path(__file__).parents[1] / "apps" / "several_app", self.roots.app)
        make_store(self.roots.studies, CASES)
        LocalDatastore(self.roots.studies).close()

    def job(self, **params: object) -> JobFolder:
        spec = JobSpec(
            JobId(str(uuid.uuid4())),
            JobKind.TRAIN,
            "cubes",
            {"device": "cpu", "seed": 3, "val_split": 0.2, "max_epochs": 2, "pretrained": False, **params},  # type: ignore[dict-item]
            "ann",
            1.0,
        )
        folder = JobFolder(self.roots.app / "jobs" / spec.job_id)
        folder.create(spec)
        return folder

    def start(self, folder: JobFolder) -> subprocess.Popen[bytes]:
        settings = Settings(app_dir=self.roots.app, studies=str(self.roots.studies))
        folder.prepare_start(child_settings(settings, self.roots))
        folder.say(Signal.STARTED, {})
        with folder.log_file.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "labelserver.worker", "job", str(folder.path)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def run(self, folder: JobFolder) -> int:
        with self.start(folder) as process:
            return process.wait(200)

    def weights(self, number: int) -> dict[str, torch.Tensor]:
        return read_state(LocalModelStore(self.roots.app).weights_file("cubes", number))

    def seen(self, rank: int, count: int) -> list[tuple[int, list[str]]]:
        path = self.roots.app / "model" / "cubes" / f"seen_{rank}_of_{count}.jsonl"
        return [tuple(json.loads(line)) for line in path.read_text().splitlines()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def log_of(folder: JobFolder) -> str:
    return folder.log_file.read_text()


def test_two_processes_reach_what_one_reaches_and_leave_one_version(place: Place) -> None:
    alone, together = place.job(train_batch_size=4), place.job(train_batch_size=2, world_size=2)
    assert place.run(alone) == 0, log_of(alone)
    assert place.run(together) == 0, log_of(together)
    store = LocalModelStore(place.roots.app)
    assert [version.number for version in store.versions("cubes")] == [1, 2]
    one, two = store.version("cubes", 1), store.version("cubes", 2)
    assert two.metrics["val_mean_dice"] == pytest.approx(one.metrics["val_mean_dice"], abs=1e-3)
    assert one.labels == two.labels
    weights, same = place.weights(1), place.weights(2)
    assert max(float((weights[name] - same[name]).abs().max()) for name in weights) < 1e-4
    for epoch in (1, 2):
        seen = Counter(name for rank in (0, 1) for at, names in place.seen(rank, 2) if at == epoch for name in names)
        assert set(seen.values()) == {1}, "each case once an epoch"
        assert len(seen) == CASES - 1


def test_a_stop_of_two_processes_is_taken_up_where_it_was(place: Place) -> None:
    whole, broken = (place.job(world_size=2, max_epochs=6) for _ in range(2))
    assert place.run(whole) == 0, log_of(whole)
    process = place.start(broken)
    wait_until("an epoch", lambda: any(event.signal is Signal.EPOCH for event in broken.events()), 280)
    process.send_signal(signal.SIGTERM)
    with process:
        assert process.wait(100) == 0, log_of(broken)
    assert not any(event.signal is Signal.RESULT for event in broken.events()), "it ended before it was stopped"
    assert place.run(broken) == 0, log_of(broken)
    weights, same = place.weights(1), place.weights(2)
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_a_process_that_fails_ends_the_others_and_the_job_says_so(place: Place) -> None:
    folder = place.job(world_size=2, fail_at=2)
    assert place.run(folder) != 0
    failed = [event for event in folder.events() if event.signal is Signal.FAILED]
    assert len(failed) == 1
    assert "one of them fails" in log_of(folder)
    assert LocalModelStore(place.roots.app).versions("cubes") == []
