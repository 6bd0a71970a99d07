"""What is done to a job's folder in one go: by a thread of the server, because it waits for the disk."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from pathlib import Path

from labelserver.domain.errors import InvalidId, LabelServerError
from labelserver.domain.ids import parse_job_id
from labelserver.domain.jobs import JobState, Signal
from labelserver.domain.json_types import JsonObject
from labelserver.engine.job_folder import JobFolder, JobView, OnEvent
from labelserver.engine.warm_jobs import Prepared
from labelserver.storage.processes import identity_of, send_signal, spawn_detached

logger = logging.getLogger(__name__)


def create(view: JobView) -> None:
    """Make the folder of a new job. Raises `StorageFailed`."""
    view.folder.create(view.record.spec)
    say(view, Signal.SUBMITTED, {})
    say(view, Signal.LOG, {"line": f"Queued: {view.record.spec.kind.value} {view.record.spec.task}."})


def say(view: JobView, wish: Signal, data: JsonObject) -> None:
    """Append to ``control.jsonl`` and take notice of it. Raises `StorageFailed`."""
    view.folder.say(wish, data, not_before_ts=view.last_ts)
    view.refresh()


def resume(view: JobView) -> None:
    """Let a job that ended go on from its checkpoint. How it ended is kept, because a start removes ``exit.json``.

    Raises: `StorageFailed`.
    """
    ended = view.refresh()
    if ended is not None:
        view.folder.say(Signal.EXITED, ended.data, not_before_ts=view.last_ts)
    say(view, Signal.RESUME_ASKED, {})
    say(view, Signal.LOG, {"line": f"Queued again: {view.record.spec.kind.value} {view.record.spec.task}."})


def start_runner(
    view: JobView, command: tuple[str, ...], settings: JsonObject, prepared: Prepared | None = None
) -> int | None:
    """Start the runner, write down who it is, and only then let it go: without the word "go" it ends at once.

    Args:
        prepared: a runner that waits already, instead of `command`. It is let go or ended here.

    Returns:
        Its pid; None if the job was stopped before it started.
    """
    try:
        if prepared is not None and (pid := _let_go(view, prepared, settings)) is not None:
            return pid
    finally:
        if prepared is not None:
            prepared.close()
    view.folder.prepare_start(settings)
    say(view, Signal.STARTED, {})
    if view.record.state is not JobState.STARTING:
        return None
    go_read, go_write = os.pipe()
    try:
        pid = spawn_detached([*command, str(view.folder.path)], go_read, view.folder.log_file)
        identity = identity_of(pid)
        if identity is not None:
            view.folder.write_owner(identity)
            os.write(go_write, b"go\n")
        return pid
    finally:
        os.close(go_read)
        os.close(go_write)


def _let_go(view: JobView, prepared: Prepared, settings: JsonObject) -> int | None:
    """Hand the job to a runner that waits. None if it died meanwhile, or the job was stopped."""
    identity = identity_of(prepared.pid)
    if identity is None:
        return None
    view.folder.prepare_start(settings)
    say(view, Signal.STARTED, {})
    if view.record.state is not JobState.STARTING:
        return None
    view.folder.write_owner(identity)
    os.write(prepared.go, f"go {view.folder.path}\n".encode())
    return prepared.pid


def mark_lost(view: JobView) -> None:
    """Nobody waits for the job's process any more: end what is left of it, and say so."""
    kill(view.folder)
    message = "The job's processes are gone and left no record of how they ended; start it again."
    say(view, Signal.LOST, {"message": message})


def kill(folder: JobFolder) -> None:
    """SIGKILL to the job's process group, if it still runs."""
    process = folder.process()
    if process is not None:
        send_signal(process, signal.SIGKILL, group=True)


def read_all(root: Path, on_event: OnEvent | None = None) -> list[JobView]:
    """The jobs below `root`, oldest first. `on_event` is told what is read, now and later.

    A job's folder without a spec was never promised to anybody and is removed; what is not named as a job is not ours.
    """
    views = []
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        try:
            parse_job_id(path.name)
        except InvalidId:
            continue
        folder = JobFolder(path)
        try:
            view = JobView(folder, folder.spec(), on_event)
        except LabelServerError as error:
            if not (path / "spec.json").exists():
                shutil.rmtree(path, ignore_errors=True)
            else:
                logger.warning("job folder is passed over", extra={"error": error.message})
            continue
        view.refresh()
        views.append(view)
    return sorted(views, key=lambda view: view.record.spec.created_ts)
