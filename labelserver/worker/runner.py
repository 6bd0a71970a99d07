"""The runner of a job: small, without torch, and there from the job's first moment to its last.

It waits for the word "go" on stdin (without it, nobody knows of it, and it ends), starts the job's process as the
leader of a group of its own, hands SIGTERM on, waits, and writes ``exit.json``. It outlives the server that started it.
The job's stdin is a pipe from here: if the runner is killed, the job sees its end and ends too.

A warm runner starts the process first and learns the job's folder with the word "go"; it runs one job like any other.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from labelserver.engine.job_folder import JobFolder
from labelserver.storage.memory import memory_kills
from labelserver.storage.processes import calculating_environment, identity_of, lead_output_into

logger = logging.getLogger(__name__)

#: added to the niceness: people's requests come before a training that lasts minutes anyway.
NICENESS = 10
#: exit status that a shell gives to a command that cannot be started.
NOT_STARTED = 127


class Runner:
    """Runs one job.

    Args:
        command: the job's process; a cold one gets the folder as its last argument.
        folder: of the job; a warm runner is told later.
    """

    def __init__(self, command: Sequence[str], folder: JobFolder | None = None) -> None:
        self._command = list(command)
        self._folder = folder
        self._child: subprocess.Popen[bytes] | None = None
        self._asked_to_end = False

    def run(self) -> int:
        """Wait for "go", then run the job. Returns the runner's own exit status: 0 once ``exit.json`` is written."""
        assert self._folder is not None
        self._hear_signals()
        if sys.stdin.readline() != "go\n":
            logger.info("the server ended before it let this job go")
            return 1
        self._start([*self._command, str(self._folder.path)])
        return self._until_end(self._folder)

    def run_warm(self) -> int:
        """Start the process, hand it the first line (settings), then the folder that comes with "go"."""
        self._hear_signals()
        preparation = sys.stdin.readline()
        self._start(self._command)
        self._tell(preparation)
        word, _, path = sys.stdin.readline().rstrip("\n").partition(" ")
        if word != "go":
            self._end_child()
            return 1
        self._folder = JobFolder(Path(path))
        lead_output_into(self._folder.log_file)
        self._tell(f"{path}\n")
        return self._until_end(self._folder)

    def _hear_signals(self) -> None:
        signal.signal(signal.SIGTERM, self._hand_on)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the terminal of the server that started it

    def _start(self, command: Sequence[str]) -> None:
        os.nice(NICENESS)
        try:
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, start_new_session=True, env=_environment(), bufsize=0
            )
        except OSError as error:
            logger.error("the job's process could not be started", extra={"error": error})

    def _tell(self, line: str) -> None:
        if self._child is not None and self._child.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it died; its exit status tells
                self._child.stdin.write(line.encode())

    def _until_end(self, folder: JobFolder) -> int:
        kills_before = memory_kills()
        returncode = self._wait(folder)
        shutil.rmtree(folder.temporary, ignore_errors=True)
        starved = returncode == -signal.SIGKILL and memory_kills() > kills_before
        folder.write_exit(returncode, out_of_memory=starved)
        return 0

    def _wait(self, folder: JobFolder) -> int:
        child = self._child
        if child is None:
            return NOT_STARTED
        with child:
            identity = identity_of(child.pid)
            if identity is not None:
                folder.write_process(identity)
            if self._asked_to_end:
                child.terminate()
            returncode = child.wait()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # what the job left behind: loaders, ranks
        return returncode

    def _end_child(self) -> None:
        if self._child is not None:
            with self._child, contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)

    def _hand_on(self, number: int, frame: object) -> None:
        self._asked_to_end = True
        if self._folder is None:
            self._end_child()  # warm, without a job: nothing is lost
            sys.exit(1)
        if self._child is not None:
            self._child.terminate()


def _environment() -> dict[str, str]:
    """One core is left to the worker, which answers people, unless somebody chose the number of threads."""
    threads = max(1, len(os.sched_getaffinity(0)) - 1)
    return {"OMP_NUM_THREADS": str(threads), **calculating_environment()}


def run(folder: Path, command: Sequence[str]) -> int:
    """Run the job in `folder`: `command`, followed by the folder, is its process."""
    return Runner(command, JobFolder(folder)).run()


def run_warm(command: Sequence[str]) -> int:
    """Start `command` now, and let it run the job that is named later."""
    return Runner(command).run_warm()
