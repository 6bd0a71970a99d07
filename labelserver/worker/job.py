"""A job's process: loads the app, runs one trainer or scoring method, writes down what happened, ends.

Everything it has to say goes into ``events.jsonl`` of its folder; what it prints goes to ``worker.log``. It ends at
once if its runner is gone. SIGTERM asks the task to stop at its next step; while the app still loads it simply ends.

A warm process loads the app before it has a job. It is told its folder on stdin, runs that one job and ends.
"""

from __future__ import annotations

import json
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
from labelserver.contracts.ranks import ranks_from
from labelserver.domain.errors import DiskFull, StorageFailed, StoredDataInvalid
from labelserver.domain.jobs import EXIT_REASONS, JobKind, JobReason, JobSpec, Signal
from labelserver.domain.json_types import JsonObject
from labelserver.domain.paths import Roots
from labelserver.engine.job_folder import EventWriter, JobFolder
from labelserver.settings import Settings
from labelserver.storage import device_marks
from labelserver.storage.processes import lead_output_into
from labelserver.worker.failures import as_error, reason_of
from labelserver.worker.hosted import HostedApp, Loader
from labelserver.worker.job_progress import JobProgress, LogToEvents
from labelserver.worker.plain import plain, plain_object
from labelserver.worker.rank_processes import JobRanks
from labelserver.worker.serving import install_settings, roots_from_json

logger = logging.getLogger(__name__)

#: Exit status of a process that failed for a reason; the event says the same in more words.
EXIT_STATUS: dict[JobReason, int] = {reason: status for status, reason in EXIT_REASONS.items()}

#: What surrounds the task: for a training, the model store it writes its versions to.
Surroundings = Callable[[Roots], AbstractContextManager[None]]

_WORK: dict[JobKind, tuple[str, Callable[[HostedApp, JobSpec], Any]]] = {
    JobKind.TRAIN: ("trainer", lambda app, spec: app.train({**spec.params, "model": spec.task})),
    JobKind.SCORING: ("scoring method", lambda app, spec: app.scoring({**spec.params, "method": spec.task})),
    JobKind.EXPORT: ("export of", lambda app, spec: None),  # loads the app itself, see `Job._export`
}


class Job:
    """One run of a job. `app`: loaded already, by a warm process."""

    def __init__(
        self, folder: JobFolder, loader: Loader, surroundings: Surroundings, app: HostedApp | None = None
    ) -> None:
        self._folder = folder
        self._loader = loader
        self._surroundings = surroundings
        self._app = app
        self._spec = folder.spec()
        self._settings, self._roots = settings_of(folder.settings())
        self._events = EventWriter(folder)
        self._progress = JobProgress(folder, self._events, marks=self._roots.app / device_marks.FOLDER)

    def run(self) -> int:
        """Returns the exit status."""
        logging.getLogger().addHandler(LogToEvents(self._progress))
        what, work = _WORK[self._spec.kind]
        speaker = f"The {what} {self._spec.task}"
        try:
            self._prepare_folder()
            exports = self._spec.kind is JobKind.EXPORT
            app = None if exports else self._app or self._load()
            signal.signal(signal.SIGTERM, self._on_sigterm)
            self._events.write(Signal.RUNNING, sync=True)
            self._progress.log(f"{speaker} {'goes on' if self._progress.resume else 'starts'}.")
            with watched_by(self._progress), ranks_from(JobRanks(self._folder)), self._surroundings(self._roots):
                result = self._export() if app is None else work(app, self._spec)
            self._finish(result)
        except BaseException as error:  # the user's code, which may even call sys.exit
            message, reason = as_error(error, speaker).message, reason_of(error)
            logger.error("job failed", extra={"reason": reason.value, "error": message}, exc_info=error)
            self._fail(reason, message)
            return EXIT_STATUS[reason]
        return 0

    def _prepare_folder(self) -> None:
        """Temporary files, and the space that the last words need on a full disk."""
        self._folder.temporary.mkdir(exist_ok=True)
        tempfile.tempdir = str(self._folder.temporary)
        self._folder.reserve()

    def _load(self) -> HostedApp:
        install_settings(self._settings)
        self._progress.log("Loading the app.")
        return self._loader.load(self._settings, self._roots)

    def _export(self) -> JsonObject:
        return self._loader.export(self._load, self._spec, self._folder.path)

    def _finish(self, result: Any) -> None:
        """Write the result down, unless the task was suspended before it had one."""
        if self._progress.was_interrupted and self._progress.wish is not Signal.STOP_ASKED:
            self._progress.log("Suspended at a step; it goes on when the server is back.")
            return
        document = plain_object(result) if isinstance(result, Mapping) else {"result": plain(result)}
        self._last_words(Signal.LOG, {"line": "Stopped as asked." if self._progress.was_interrupted else "Done."})
        self._last_words(Signal.RESULT, document)

    def _fail(self, reason: JobReason, message: str) -> None:
        try:
            self._last_words(Signal.FAILED, {"reason": reason.value, "message": message})
        except StorageFailed as error:  # the exit status says the reason, too
            logger.error("the failure could not be written down", extra={"error": error.message})

    def _last_words(self, word: Signal, data: JsonObject) -> None:
        """Write an event even on a full disk: the space for it was set aside."""
        try:
            self._events.write(word, data, sync=True)
        except DiskFull:
            self._folder.free_reserve()
            self._events.write(word, data, sync=True)

    def _on_sigterm(self, number: int, frame: object) -> None:
        self._progress.ask_to_stop()


def settings_of(document: JsonObject) -> tuple[Settings, Roots]:
    """What a job's ``settings.json`` says. Raises `StoredDataInvalid`."""
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

    if os.getpgrp() == os.getpid():  # as started by the runner; by hand, the group is the shell's
        threading.Thread(target=watch, name="runner-watch", daemon=True).start()
    sys.stdin = open(os.devnull)  # noqa: SIM115 - for the life of this process


def run(folder: Path, loader: Loader, surroundings: Surroundings) -> int:
    """Run the job in `folder`. Returns the exit status."""
    _end_with_runner()
    return Job(JobFolder(folder), loader, surroundings).run()


def run_warm(loader: Loader, surroundings: Surroundings, warm_up: Callable[[], None]) -> int:
    """Read settings and roots from stdin, load the app, wait for a job's folder, run it. Returns the exit status.

    `warm_up` loads what only a first step would load. An app that cannot be loaded now is loaded again for the job,
    which then tells why.
    """
    settings, roots = settings_of(json.loads(_read_line()))
    install_settings(settings)
    app: HostedApp | None = None
    try:
        app = loader.load(settings, roots)
        warm_up()
    except BaseException:  # the user's code, which may even call sys.exit
        logger.exception("the app could not be loaded before there was a job")
    folder = _read_line()
    if not folder:
        return 0
    _end_with_runner()
    given = JobFolder(Path(folder))
    lead_output_into(given.log_file)
    return Job(given, loader, surroundings, app).run()


def _read_line() -> str:
    """A line of stdin without its end; read byte by byte, so that nothing of what follows is buffered away."""
    found = b""
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        found += byte
    return found.decode()
