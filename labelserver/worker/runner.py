"""The runner of a job: small, without torch, and there from the job's first moment to its last.

It waits for the word "go" on stdin (without it, nobody knows of it, and it ends), starts the job's process as the
leader of a group of its own, hands SIGTERM on, waits, and writes ``exit.json``. It outlives the server that started it.
The job's stdin is a pipe from here: if the runner is killed, the job sees its end and ends too.
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
from labelserver.storage.processes import identity_of

logger = logging.getLogger(__name__)

#: added to the niceness: people's requests come before a training that lasts minutes anyway.
NICENESS = 10
#: exit status that a shell gives to a command that cannot be started.
NOT_STARTED = 127


class Runner:
    """Runs one job."""

    def __init__(self, folder: JobFolder, command: Sequence[str]) -> None:
        self._folder = folder
        self._command = [*command, str(folder.path)]
        self._child: subprocess.Popen[bytes] | None = None
        self._asked_to_end = False

    def run(self) -> int:
        """Returns the runner's own exit status: 0 once ``exit.json`` is written."""
        signal.signal(signal.SIGTERM, self._hand_on)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the terminal of the server that started it
        if sys.stdin.readline() != "go\n":
            logger.info("the server ended before it let this job go")
            return 1
        returncode = self._run_child()
        shutil.rmtree(self._folder.temporary, ignore_errors=True)
        self._folder.write_exit(returncode)
        return 0

    def _run_child(self) -> int:
        os.nice(NICENESS)
        try:
            child = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        except OSError as error:
            logger.error("the job's process could not be started", extra={"error": error})
            return NOT_STARTED
        with child:
            identity = identity_of(child.pid)
            if identity is not None:
                self._folder.write_process(identity)
            self._child = child
            if self._asked_to_end:
                child.terminate()
            returncode = child.wait()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # what the job left behind: loaders, ranks
        return returncode

    def _hand_on(self, number: int, frame: object) -> None:
        self._asked_to_end = True
        if self._child is not None:
            self._child.terminate()


def run(folder: Path, command: Sequence[str]) -> int:
    """Run the job in `folder`: `command`, followed by the folder, is its process."""
    return Runner(JobFolder(folder), command).run()
