"""The further processes of a training that uses several, as rank 0 sees them: started by it, ended with it.

They belong to the job's group of processes, so a kill of the job ends them too. What they say goes to its log.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from labelserver.domain.errors import TaskFailed
from labelserver.engine.job_folder import JobFolder

#: seconds that the other ranks get to end after rank 0 has.
LEAVE_TIMEOUT_S = 30.0


class JobRanks:
    """Starts ranks of the job in `folder`. See `contracts.ranks.RankStarter`."""

    def __init__(self, folder: JobFolder) -> None:
        self._folder = folder

    @contextmanager
    def others(self, count: int) -> Iterator[None]:
        """See the contract."""
        share = max(1, len(os.sched_getaffinity(0)) // count)
        environment = {**os.environ, "OMP_NUM_THREADS": str(share)}
        command = [sys.executable, "-m", "labelserver.worker", "rank", str(self._folder.path)]
        started = [
            subprocess.Popen([*command, str(number), str(count)], stdin=subprocess.PIPE, env=environment)
            for number in range(1, count)
        ]
        try:
            yield
            for number, process in enumerate(started, start=1):
                if process.wait(LEAVE_TIMEOUT_S) != 0:
                    raise TaskFailed(f"Process {number} of {count} of this training failed; the job's log says why.")
        except subprocess.TimeoutExpired as error:
            raise TaskFailed("A process of this training did not end with the others.") from error
        finally:
            for process in started:
                process.kill()
                process.wait()
                if process.stdin is not None:
                    process.stdin.close()
