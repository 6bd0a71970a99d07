"""The labeling loop without a person: a real server in processes of its own, and annotators that know the truth.

An annotator does over HTTP what a person does with a viewer: takes the image that the queue gives him, asks for the
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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labelserver.cli.failing import CommandFailed
from labelserver.client import GivenImage, LabelServerClient, ServerUnreachable
from labelserver.domain.effort import Sign
from labelserver.domain.json_types import JsonValue
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


class Annotators:
    """People who label side by side, each in a thread of his own with a client of his own."""

    def __init__(self, url: str, people: Sequence[str], model: str, labels: dict[str, int], references: Path) -> None:
        """`model`: whose proposals they ask for; "" before there is one. `labels`: name -> value in the references."""
        self._url = url
        self._people = people
        self._model = model
        self._labels = labels
        self._references = references

    def label(self, count: int, on_label: Callable[[str], None]) -> list[float]:
        """Label `count` images together, each his part. Returns the share of each proposal that was corrected.

        Raises:
            CommandFailed: the queue has no image left, or the model proposed no mask.
        """
        each, more = divmod(count, len(self._people))
        with ThreadPoolExecutor(len(self._people)) as pool:
            work = [
                pool.submit(self._work, person, each + (number < more), on_label)
                for number, person in enumerate(self._people)
            ]
            return [share for done in work for share in done.result()]

    def _work(self, person: str, count: int, on_label: Callable[[str], None]) -> list[float]:
        shares: list[float] = []
        with LabelServerClient(self._url, person=person) as client:
            for _ in range(count):
                given = client.next_image("random")
                if not isinstance(given, GivenImage):
                    raise CommandFailed(f"The queue gives {person} no image: {given.message}")
                truth = self._references / f"{given.image.id}.nii.gz"
                said = f"{person}: {given.image.id}"
                if self._model:
                    share = self._proposed(client, given.image.id, truth)
                    shares.append(share)
                    said = f"{said}, {share:.0%} corrected"
                client.tell_activity(given.image.id, Sign.EDIT)
                info: list[JsonValue] = [{"name": name, "idx": value} for name, value in self._labels.items()]
                client.save_label(given.image.id, truth, params={"label_info": info})
                on_label(said)
        return shares

    def _proposed(self, client: LabelServerClient, image_id: str, truth: Path) -> float:
        proposal = client.infer(self._model, image_id, {"result_extension": ".nii.gz"}).mask
        if proposal is None:
            raise CommandFailed("The model proposed no mask.")
        return judge(proposal, truth, self._labels).corrected


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
