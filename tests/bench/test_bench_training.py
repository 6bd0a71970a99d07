"""What a training costs beyond its arithmetic: the time to its first step, an epoch, and the way to DONE.

8 cases of 64^3 voxels, 5 epochs, batch 1, a small residual U-Net (8-16-32-64), DiceCE, Adam, no validation. The bare
script (`bare_training.py`) does the same with MONAI and torch alone, in turn with the server's jobs, with the same
number of threads and the same niceness.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from labelserver.client import LabelServerClient
from labelserver.domain.jobs import Signal
from labelserver.engine.job_folder import JobFolder
from labelserver.worker.runner import NICENESS
from tests.bench.report import Section
from tests.support.live_server import LiveServer, wait_until

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

APP = Path(__file__).parents[1] / "apps" / "bench_app"
BARE = Path(__file__).with_name("bare_training.py")
ROUNDS = int(os.environ.get("LABELSERVER_BENCH_ROUNDS", "3"))
EPOCHS = 5
SHAPE = (64, 64, 64)
REQUEST = {"max_epochs": EPOCHS, "val_split": 0, "pretrained": False, "tracking": "None"}


@dataclass
class Times:
    """Of one training, in seconds."""

    first_step: float
    later_epochs: list[float]
    to_done: float = 0.0


def make_cases(studies: Path) -> None:
    random = np.random.default_rng(1)
    final = studies / "labels" / "final"
    final.mkdir(parents=True)
    for number in range(8):
        mask = np.zeros(SHAPE, np.uint8)
        mask[tuple(slice(c, c + 24) for c in random.integers(4, 32, 3))] = 1
        image = (mask * 100 + random.normal(0, 20, SHAPE)).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.eye(4)), studies / f"case_{number}.nii.gz")
        nib.save(nib.Nifti1Image(mask, np.eye(4)), final / f"case_{number}.nii.gz")


def bare(studies: Path, environment: dict[str, str]) -> Times:
    begun = time.time()
    ran = subprocess.run(
        ["nice", "-n", str(NICENESS), sys.executable, str(BARE), str(studies), str(EPOCHS)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(ran.stdout.splitlines()[-1])
    ends = found["epoch_ends"]
    return Times(found["first_step"] - begun, [b - a for a, b in itertools.pairwise(ends)])


def ours(server: LiveServer) -> Times:
    """One training over HTTP; times from its events and from the moment in which /train/ says DONE.

    It is followed as the page follows it, by the stream of events; /train/ is asked from the last epoch on. Who
    asks fifty times a second takes a tenth of a core from the training, which is not what is measured here.
    """
    begun = time.time()
    answer = server.http.post("/train/bench", json=REQUEST)
    assert answer.status_code == 200, answer.text
    with LabelServerClient(server.url) as client, closing(client.events(job_id=answer.json()["id"], after=0)) as events:
        for event in events:
            if event.kind == "job.epoch" and event.data["epoch"] == EPOCHS:
                break
            assert event.data.get("state") not in ("failed", "stopped"), event
    done = 0.0
    while not done:
        time.sleep(0.02)
        status = server.train_status()["status"]
        assert status in ("SUBMITTED", "RUNNING", "DONE"), server.train_status()
        done = time.time() if status == "DONE" else 0.0
    events = JobFolder(server.app / "jobs" / answer.json()["id"]).events()
    first = next(e.ts for e in events if e.signal is Signal.PROGRESS and e.data.get("step") == 1)
    ends = [e.ts for e in events if e.signal is Signal.EPOCH]
    assert len(ends) == EPOCHS
    return Times(first - begun, [b - a for a, b in itertools.pairwise(ends)], done - ends[-1])


def median(values: list[float]) -> float:
    return statistics.median(values)


def test_a_training_costs_little_more_than_its_arithmetic(tmp_path: Path) -> None:
    app, studies = tmp_path / "app", tmp_path / "studies"
    shutil.copytree(APP, app)
    make_cases(studies)
    environment = {**os.environ, "OMP_NUM_THREADS": str(os.cpu_count() or 1), "PYTHONUNBUFFERED": "1"}
    settings = {"LABELSERVER_AUTO_UPDATE_SCORING": "false", "LABELSERVER_WARM_JOB_S": "3600"}
    bares: list[Times] = []
    colds: list[Times] = []
    warms: list[Times] = []
    with LiveServer(app, studies, OMP_NUM_THREADS=environment["OMP_NUM_THREADS"], **settings) as server:
        wait_until("all labels", lambda: server.http.get("/datastore/").json()["completed"] == 8)
        bare(studies, environment)  # the disk's cache is filled for all
        for _ in range(ROUNDS):
            bares.append(bare(studies, environment))
            wait_until_warm(server)
            warms.append(ours(server))
            wait_until_warm(server)
            (app / "lib").mkdir(exist_ok=True)
            (app / "lib" / "note.py").write_text(f"# {time.time()}\n")  # the app changed: the warm process is put away
            colds.append(ours(server))
    start, epoch = median([t.first_step for t in bares]), median([s for t in bares for s in t.later_epochs])
    with Section("Training", __doc__.split("\n\n")[1].replace("\n", " ")) as section:
        for name, runs, limit in (("cold", colds, 1.3), ("warm", warms, 0.5)):
            value = median([t.first_step for t in runs])
            detail = f"{value:.2f} s, the script {start:.2f} s"
            section.at_most(f"POST to the first step, {name}, against the script", value / start, limit, detail=detail)
        both = [*colds, *warms]
        value = median([s for t in both for s in t.later_epochs])
        detail = f"{value:.3f} s, the script {epoch:.3f} s"
        section.at_most("later epochs against the script", value / epoch, 1.05, detail=detail)
        section.at_most("last epoch to DONE", median([t.to_done for t in both]), 0.5, "s")


def wait_until_warm(server: LiveServer) -> None:
    """The waiting process has imported everything and uses no processor time any more."""
    log = server.app / "logs" / "warm-job.log"

    def used(pid: int) -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def is_idle() -> bool:
        found = server.processes("labelserver.worker warm ")
        if len(found) != 1:  # none yet, or the one before is still on its way out
            return False
        try:
            before = used(found[0])
            time.sleep(1)
            return before > 200 and used(found[0]) - before <= 1
        except FileNotFoundError:
            return False

    wait_until(f"rest of the warm process (see {log})", is_idle, 120)
