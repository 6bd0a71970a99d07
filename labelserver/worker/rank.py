"""One further process of a training that uses several: ``python -m labelserver.worker rank FOLDER NUMBER COUNT``.

It loads the app, reads the job's spec, and runs the same trainer as rank NUMBER. It reports nothing, and it ends by
itself once its stdin does, whose other end rank 0 holds.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from labelserver.contracts.progress import Silent, watched_by
from labelserver.contracts.ranks import Rank, as_rank
from labelserver.engine.job_folder import JobFolder
from labelserver.worker.hosted import Loader
from labelserver.worker.job import Surroundings, settings_of
from labelserver.worker.job_progress import is_taken_up
from labelserver.worker.serving import install_settings


class _RankProgress(Silent):
    """Says nothing; knows the job's folder, and whether it is taken up again."""

    def __init__(self, folder: JobFolder) -> None:
        self.folder = folder.path
        self.resume = is_taken_up(folder)


def run_rank(folder: Path, number: int, count: int, loader: Loader, surroundings: Surroundings) -> int:
    """Run as one rank of the job in `folder`. Returns the exit status."""
    _end_with_first()
    job = JobFolder(folder)
    settings, roots = settings_of(job.settings())
    install_settings(settings)
    spec = job.spec()
    app = loader.load(settings, roots)
    with as_rank(Rank(number, count)), watched_by(_RankProgress(job)), surroundings(roots):
        app.train({**spec.params, "model": spec.task})
    return 0


def _end_with_first() -> None:
    def watch() -> None:
        while os.read(0, 1024):
            continue
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="first-rank-watch", daemon=True).start()
    sys.stdin = open(os.devnull)  # noqa: SIM115 - for the life of this process
