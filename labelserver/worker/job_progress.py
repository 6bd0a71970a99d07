"""How a job's task speaks to the server: a `Progress` that appends to ``events.jsonl``.

The wish to stop arrives by SIGTERM; the same wish stands in ``control.jsonl``, which is looked at now and then for jobs
that a signal does not reach.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from labelserver.domain.errors import StorageFailed
from labelserver.domain.jobs import DETAIL_LINES, Signal
from labelserver.engine.job_folder import EventWriter, JobFolder
from labelserver.storage.device_marks import is_interactive
from labelserver.storage.log_lines import with_fields
from labelserver.worker.plain import plain_object

#: seconds between looks into ``control.jsonl``.
LOOK_EVERY_S = 1.0
#: seconds between looks at a device that people use; a step of a small network takes as long.
YIELD_EVERY_S = 0.02
_WISHES = (Signal.STOP_ASKED, Signal.SUSPEND_ASKED)


class JobProgress:
    """See `contracts.progress.Progress`. Threads may share it.

    Args:
        folder: of the job.
        events: where everything is written.
        marks: folder with the marks of devices that people wait for.
    """

    def __init__(self, folder: JobFolder, events: EventWriter, marks: Path) -> None:
        self._folder = folder
        self._events = events
        self._resume = is_taken_up(folder)
        self._job_id = str(folder.spec().job_id)
        self._asked = False
        self._seen = False
        self._next_look = 0.0
        self._marks = marks

    @property
    def folder(self) -> Path | None:
        return self._folder.path

    @property
    def job_id(self) -> str:
        return self._job_id

    @property
    def resume(self) -> bool:
        return self._resume

    @property
    def was_interrupted(self) -> bool:
        """True if the task has heard that it should stop: what it returned then is not the whole work."""
        return self._seen

    @property
    def wish(self) -> Signal | None:
        """`STOP_ASKED` or `SUSPEND_ASKED` if one was written since the last start."""
        found = None
        for event in self._folder.control():
            if event.signal is Signal.STARTED:
                found = None
            elif event.signal in _WISHES:
                found = event.signal
        return found

    def ask_to_stop(self) -> None:
        """From now on `should_stop` is true. Safe in a signal handler."""
        self._asked = True

    def report(self, data: Mapping[str, Any]) -> None:
        self._events.write(Signal.PROGRESS, plain_object(data))

    def epoch_done(self, point: Mapping[str, Any]) -> None:
        self._events.write(Signal.EPOCH, plain_object(point))

    def log(self, line: str) -> None:
        self._events.write(Signal.LOG, {"line": line})

    def version_ready(self, model: str, number: int) -> None:
        self._events.write(Signal.VERSION, {"model": model, "version": number}, sync=True)

    def should_stop(self) -> bool:
        now = time.monotonic()
        if not self._asked and now >= self._next_look:
            self._next_look = now + LOOK_EVERY_S
            if self.wish is not None:
                self._asked = True
        self._seen = self._seen or self._asked
        return self._seen

    def yield_device(self, device: str) -> None:
        if not is_interactive(self._marks, device):
            return
        self.report({"paused": True})
        pause = threading.Event()
        while is_interactive(self._marks, device) and not self.should_stop():
            pause.wait(YIELD_EVERY_S)
        self.report({"paused": False})


class LogToEvents(logging.Handler):
    """Shows the job's log lines to people who ask for its status, without tracebacks: those stay in ``worker.log``.

    People see the last `DETAIL_LINES` lines, so more than that in a second are not worth keeping.
    """

    def __init__(self, progress: JobProgress) -> None:
        super().__init__(logging.INFO)
        self._progress = progress
        self._second = 0
        self._lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        second = int(record.created)
        if second != self._second:
            self._second, self._lines = second, 0
        self._lines += 1
        if self._lines <= DETAIL_LINES:
            with suppress(StorageFailed):  # a line for people must not end the work; it stands in ``worker.log``, too
                self._progress.log(with_fields(record))


def is_taken_up(folder: JobFolder) -> bool:
    """Whether this is not the first start of the job."""
    return sum(1 for event in folder.control() if event.signal is Signal.STARTED) > 1
