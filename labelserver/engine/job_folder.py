"""A job's folder: the one truth about a job, with one writer for each file.

    spec.json       what to do                                   server, once; a folder without it was never promised
    settings.json   settings and roots of the last start         server, before each start
    control.jsonl   submitted, started, stop asked, lost         server
    owner.json      identity of the runner that was let go       server, before it says "go"
    process.json    identity of the job's own process            runner
    events.jsonl    running, progress, log, version, result      job
    exit.json       how the job's process ended                  runner, last
    decided.jsonl   versions whose fate the server has decided   server
    worker.log      output, for people                           runner and job
    reserve         space for the last words on a full disk      job
    tmp/            temporary files, gone when the job ends      job

A start removes the ``exit.json``, ``owner.json`` and ``process.json`` of the run before.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from labelserver.domain.errors import StoredDataInvalid
from labelserver.domain.ids import JobId
from labelserver.domain.jobs import JobEvent, JobRecord, JobSpec, Signal, advance
from labelserver.domain.json_types import JsonObject
from labelserver.storage import atomic
from labelserver.storage.append import JsonLinesReader, JsonLinesWriter, append_json_line, read_json_lines
from labelserver.storage.processes import ProcessIdentity

#: bytes set aside in each job's folder: its last events and ``exit.json`` need a few thousand.
RESERVE_BYTES = 65_536


class JobFolder:
    """The files of one job."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log_file = path / "worker.log"
        self.temporary = path / "tmp"
        self.events_file = path / "events.jsonl"
        self.control_file = path / "control.jsonl"
        self._spec_file = path / "spec.json"
        self._settings_file = path / "settings.json"
        self._owner_file = path / "owner.json"
        self._process_file = path / "process.json"
        self._exit_file = path / "exit.json"
        self._decided_file = path / "decided.jsonl"
        self._reserve_file = path / "reserve"

    def create(self, spec: JobSpec) -> None:
        """Make the folder; once this returns, the job survives any crash. Raises `StorageFailed`."""
        with atomic.storage_errors("the job's folder"):
            self.path.mkdir(parents=True)
        atomic.write_json(self._spec_file, spec.to_json())
        with atomic.storage_errors("the job's folder"):
            atomic.sync_folder(self.path.parent)

    def spec(self) -> JobSpec:
        """Raises `StoredDataInvalid`."""
        document = self._read(self._spec_file)
        try:
            return JobSpec.from_json(document or {})
        except (KeyError, ValueError, TypeError) as error:
            raise StoredDataInvalid(f"The job folder {self.path.name} has no readable spec.json.") from error

    def settings(self) -> JsonObject:
        """Settings and roots of the last start. Raises `StoredDataInvalid`."""
        document = self._read(self._settings_file)
        if document is None:
            raise StoredDataInvalid(f"The job folder {self.path.name} has no readable settings.json.")
        return document

    def prepare_start(self, settings: JsonObject) -> None:
        """Put away what the run before left, and keep the settings of this one."""
        with atomic.storage_errors("the job's folder"):
            for file in (self._owner_file, self._process_file, self._exit_file):
                file.unlink(missing_ok=True)
        atomic.write_json(self._settings_file, settings)
        with atomic.storage_errors("the job's folder"):
            self._settings_file.chmod(0o600)  # an app's configuration may hold a key

    def write_owner(self, identity: ProcessIdentity) -> None:
        atomic.write_json(self._owner_file, identity.to_json())

    def owner(self) -> ProcessIdentity | None:
        """The runner that was let go, or None."""
        return self._identity(self._owner_file)

    def write_process(self, identity: ProcessIdentity) -> None:
        atomic.write_json(self._process_file, identity.to_json())

    def process(self) -> ProcessIdentity | None:
        """The job's own process, which leads its group, or None."""
        return self._identity(self._process_file)

    def reserve(self) -> None:
        """Take the space that `free_reserve` gives back. Raises `DiskFull`, `StorageFailed`."""
        with atomic.storage_errors("the job's folder"), self._reserve_file.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, RESERVE_BYTES)

    def free_reserve(self) -> None:
        self._reserve_file.unlink(missing_ok=True)

    def write_exit(self, returncode: int, *, out_of_memory: bool = False) -> None:
        """The runner's last word."""
        self.free_reserve()
        floor_ts = max((event.ts for event in self.events()), default=0.0)
        data: JsonObject = {"returncode": returncode}
        if out_of_memory:
            data["out_of_memory"] = True
        event = JobEvent(max(time.time(), floor_ts), Signal.EXITED, data)
        atomic.write_json(self._exit_file, event.to_json())

    def exit(self) -> JobEvent | None:
        document = self._read(self._exit_file)
        return _event(document) if document is not None else None

    def say(self, signal: Signal, data: JsonObject, *, not_before_ts: float = 0.0) -> JobEvent:
        """Append to ``control.jsonl``. `not_before_ts` keeps the order of cause and effect if the clock steps back."""
        event = JobEvent(max(time.time(), not_before_ts), signal, data)
        append_json_line(self.control_file, event.to_json())
        return event

    def control(self) -> list[JobEvent]:
        return _events(read_json_lines(self.control_file))

    def events(self) -> list[JobEvent]:
        return _events(read_json_lines(self.events_file))

    def decided(self) -> set[tuple[str, int]]:
        """(model, version) pairs whose fate is decided."""
        lines = read_json_lines(self._decided_file)
        return {(str(line.get("model")), int(str(line.get("version", 0)))) for line in lines}

    def write_decided(self, model: str, version: int) -> None:
        append_json_line(self._decided_file, {"model": model, "version": version})

    def _identity(self, path: Path) -> ProcessIdentity | None:
        document = self._read(path)
        try:
            return ProcessIdentity.from_json(document) if document is not None else None
        except (KeyError, ValueError):
            return None

    def _read(self, path: Path) -> JsonObject | None:
        try:
            document = json.loads(path.read_text())
        except (OSError, ValueError):
            return None
        return document if isinstance(document, dict) else None


class EventWriter:
    """The job's end of ``events.jsonl``. Threads may share it."""

    def __init__(self, folder: JobFolder) -> None:
        self._floor_ts = max((event.ts for event in folder.control()), default=0.0)
        self._lines = JsonLinesWriter(folder.events_file)

    def write(self, signal: Signal, data: JsonObject | None = None, *, sync: bool = False) -> None:
        """Append one event. `sync` waits for the disk. Raises `StorageFailed`."""
        event = JobEvent(max(time.time(), self._floor_ts), signal, data or {})
        self._lines.append(event.to_json(), sync=sync)

    def close(self) -> None:
        self._lines.close()


#: Called with an event and the record after it, in the thread that read it, in the order of each file.
OnEvent = Callable[[JobRecord, JobEvent], None]


class JobView:
    """A job's record, kept up to date by reading what was appended. Threads may share it: `refresh` takes turns."""

    def __init__(self, folder: JobFolder, spec: JobSpec, on_event: OnEvent | None = None) -> None:
        self.folder = folder
        self._on_event = on_event
        self.record = JobRecord(spec=spec)
        self.last_ts = 0.0
        self._readers = self._fresh_readers()
        self._exit_seen: JobEvent | None = None
        self._turn = threading.Lock()

    @property
    def job_id(self) -> JobId:
        return self.record.spec.job_id

    def refresh(self) -> JobEvent | None:
        """Read what is new, and return the exit record if there is one."""
        with self._turn:
            return self._refresh()

    def _refresh(self) -> JobEvent | None:
        ended = self.folder.exit()  # first: what the job wrote, it wrote before
        new = self._read_new()
        if ended is not None and ended != self._exit_seen:
            new.append(ended)
        new.sort(key=_ts)
        news = {id(event) for event in new}
        if new and new[0].ts <= self.last_ts:  # a file was read before another one's earlier line: fold anew
            self.record = JobRecord(spec=self.record.spec)
            self._readers = self._fresh_readers()
            known = [*self._read_new(), *([ended] if ended else [])]
            news = {id(event) for event in known if event in new}
            new = sorted(known, key=_ts)
        self._exit_seen = ended
        for event in new:
            self.record = advance(self.record, [event])
            self.last_ts = event.ts
            if self._on_event is not None and id(event) in news:
                self._on_event(self.record, event)
        return ended

    def _read_new(self) -> list[JobEvent]:
        return [event for reader in self._readers for event in _events(reader.read_new())]

    def _fresh_readers(self) -> tuple[JsonLinesReader, JsonLinesReader]:
        return JsonLinesReader(self.folder.control_file), JsonLinesReader(self.folder.events_file)


def _events(lines: list[JsonObject]) -> list[JobEvent]:
    return [event for line in lines if (event := _event(line)) is not None]


def _event(line: JsonObject) -> JobEvent | None:
    try:
        return JobEvent.from_json(line)
    except (KeyError, ValueError):  # a line of a later version of this package, or damaged
        return None


def _ts(event: JobEvent) -> float:
    return event.ts
