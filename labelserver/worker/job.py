"""A job's process: loads the app, runs one trainer or scoring method, writes down what happened, ends.

Everything it has to say goes into ``events.jsonl`` of its folder; what it prints goes to ``worker.log``. It ends at
once if its runner is gone. SIGTERM asks the task to stop at its next step; while the app still loads it simply ends.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from labelserver.contracts.progress import watched_by
from labelserver.domain.errors import StoredDataInvalid
from labelserver.domain.jobs import JobKind, JobReason, JobSpec, Signal
from labelserver.domain.json_types import JsonObject
from labelserver.domain.paths import Roots
from labelserver.engine.job_folder import EventWriter, JobFolder
from labelserver.settings import Settings
from labelserver.worker.failures import as_error, reason_of
from labelserver.worker.hosted import HostedApp, Loader
from labelserver.worker.job_progress import JobProgress, LogToEvents
from labelserver.worker.plain import plain, plain_object
from labelserver.worker.serving import install_settings, roots_from_json

logger = logging.getLogger(__name__)

FAILED_STATUS = 1

#: What surrounds the task: for a training, the model store it writes its versions to.
Surroundings = Callable[[Roots], AbstractContextManager[None]]

_WORK: dict[JobKind, tuple[str, Callable[[HostedApp, JobSpec], Any]]] = {
    JobKind.TRAIN: ("trainer", lambda app, spec: app.train({**spec.params, "model": spec.task})),
    JobKind.SCORING: ("scoring method", lambda app, spec: app.scoring({**spec.params, "method": spec.task})),
}


class Job:
    """One run of a job."""

    def __init__(self, folder: JobFolder, loader: Loader, surroundings: Surroundings) -> None:
        self._folder = folder
        self._loader = loader
        self._surroundings = surroundings
        self._spec = folder.spec()
        self._events = EventWriter(folder)
        self._progress = JobProgress(folder, self._events)
        document = folder.settings()
        self._settings, self._roots = _settings_of(document)

    def run(self) -> int:
        """Returns the exit status."""
        logging.getLogger().addHandler(LogToEvents(self._progress))
        folder = self._folder.temporary
        folder.mkdir(exist_ok=True)
        tempfile.tempdir = str(folder)
        install_settings(self._settings)
        what, work = _WORK[self._spec.kind]
        speaker = f"The {what} {self._spec.task}"
        try:
            self._progress.log("Loading the app.")
            app = self._loader.load(self._settings, self._roots)
            signal.signal(signal.SIGTERM, self._on_sigterm)
            self._events.write(Signal.RUNNING, sync=True)
            self._progress.log(f"{speaker} {'goes on' if self._progress.resume else 'starts'}.")
            with watched_by(self._progress), self._surroundings(self._roots):
                result = work(app, self._spec)
        except BaseException as error:  # the user's code, which may even call sys.exit
            message = as_error(error, speaker).message
            logger.error("job failed", extra={"error": message}, exc_info=error)
            self._fail(reason_of(error), message)
            return FAILED_STATUS
        self._finish(result)
        return 0

    def _finish(self, result: Any) -> None:
        """Write the result down, unless the task was suspended before it had one."""
        if self._progress.was_interrupted and self._progress.wish is not Signal.STOP_ASKED:
            self._progress.log("Suspended at a step; it goes on when the server is back.")
            return
        document = plain_object(result) if isinstance(result, Mapping) else {"result": plain(result)}
        self._progress.log("Stopped as asked." if self._progress.was_interrupted else "Done.")
        self._events.write(Signal.RESULT, document, sync=True)

    def _fail(self, reason: JobReason, message: str) -> None:
        self._events.write(Signal.FAILED, {"reason": reason.value, "message": message}, sync=True)

    def _on_sigterm(self, number: int, frame: object) -> None:
        self._progress.ask_to_stop()


def _settings_of(document: JsonObject) -> tuple[Settings, Roots]:
    settings, roots = document.get("settings"), document.get("roots")
    if not isinstance(settings, dict) or not isinstance(roots, dict):
        raise StoredDataInvalid("The job's settings.json lacks its settings or roots.")
    return Settings(**settings), roots_from_json(roots)


def _end_with_runner() -> None:
    """Kill this process group as soon as the runner, which holds the other end of stdin, is gone."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="runner-watch", daemon=True).start()


def run(folder: Path, loader: Loader, surroundings: Surroundings) -> int:
    """Run the job in `folder`. Returns the exit status."""
    if os.getpgrp() == os.getpid():  # as started by the runner; by hand, the group is the shell's
        _end_with_runner()
    sys.stdin = open(os.devnull)  # noqa: SIM115 - for the life of this process
    return Job(JobFolder(folder), loader, surroundings).run()
