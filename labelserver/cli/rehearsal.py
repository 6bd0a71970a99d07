"""The labeling loop without a person: a real server in processes of its own, and an annotator that knows the truth.

The annotator does over HTTP what a person does with a viewer: takes the image that the server hands out, asks for the
model's proposal, replaces what is wrong (here: all of it, by the reference), and submits. The held-out cases are never
part of the studies; the server sees them only as uploads.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labelserver.cli.failing import CommandFailed
from labelserver.client import LabelServerClient, ServerUnreachable
from labelserver.imaging.volumes import read_volume

#: seconds; a server that is not ready by then will not be
READY_TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True)
class Judgement:
    """A proposal against the reference: Dice per label, and the share of labeled voxels that had to be corrected."""

    dice: dict[str, float]
    corrected: float

    @property
    def mean_dice(self) -> float:
        return float(np.mean(list(self.dice.values())))


def judge(mask: Path, reference: Path, labels: dict[str, int]) -> Judgement:
    """Compare two label maps on one grid. `labels`: name -> voxel value in both."""
    found, truth = _label_map(mask), _label_map(reference)
    dice = {name: _dice(found == value, truth == value) for name, value in labels.items()}
    wrong = int(np.count_nonzero(found != truth))
    labeled = int(np.count_nonzero((found != 0) | (truth != 0)))
    return Judgement(dice, wrong / max(1, labeled))


def _label_map(path: Path) -> NDArray[np.generic]:
    return read_volume(path).voxels


def _dice(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """2 |A and B| / (|A| + |B|); 1 if both are empty."""
    both = int(np.count_nonzero(found)) + int(np.count_nonzero(truth))
    return 1.0 if both == 0 else 2.0 * int(np.count_nonzero(found & truth)) / both


def average(judgements: list[Judgement]) -> Judgement:
    """Mean over cases, label by label."""
    names = judgements[0].dice
    return Judgement(
        {name: float(np.mean([judgement.dice[name] for judgement in judgements])) for name in names},
        float(np.mean([judgement.corrected for judgement in judgements])),
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_server(app: Path, studies: Path, conf: dict[str, str], log: Path) -> Iterator[str]:
    """``labelserver start_server`` on a free port; yields its address and stops it at the end.

    Raises:
        CommandFailed: the server ended, or is not ready in time; `log` says why.
    """
    port = free_port()
    command = [sys.executable, "-m", "labelserver.cli.main", "start_server", "--app", str(app)]
    command += ["--studies", str(studies), "--port", str(port)]
    for key, value in conf.items():
        command += ["--conf", key, value]
    with log.open("wb") as stream:
        # A session of its own, so that Ctrl-C reaches this process alone, which then ends the server in order.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
    # Whoever ends the demo with SIGTERM ends the server, too.
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url, process, log)
        yield url
    finally:
        signal.signal(signal.SIGTERM, before)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    with LabelServerClient(url) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            try:
                if client.is_ready():
                    return
            except ServerUnreachable:
                pass
            time.sleep(0.1)
    last = log.read_text(errors="replace").strip().splitlines()[-3:]
    raise CommandFailed(f"The server did not start; {log} says why: {' / '.join(last)}")
