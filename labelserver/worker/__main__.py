"""The processes that load the user's app: ``python -m labelserver.worker serve | run-job FOLDER | job FOLDER``.

``warm-job APP`` and ``warm APP`` are runner and process of a job that is not known yet; APP is there for people who
look at the list of processes.

Started by the server, not by people. What they log goes to stderr, which the server has led into a file.
"""

from __future__ import annotations

import faulthandler
import importlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labelserver.storage.log_lines import EventFormatter

USAGE = (
    "usage: python -m labelserver.worker serve | run-job FOLDER | job FOLDER | rank FOLDER NUMBER COUNT | "
    "warm-job APP | warm APP"
)
_ITSELF = (sys.executable, "-m", "labelserver.worker")


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status; 2 for arguments that make no sense."""
    faulthandler.enable()
    to_stderr = logging.StreamHandler()
    to_stderr.setFormatter(EventFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[to_stderr])
    logging.captureWarnings(True)
    match list(arguments):
        case ["serve"]:
            return int(_part("serving").serve(_part("loading").AppLoader()))
        case ["run-job", folder]:
            return int(_part("runner").run(Path(folder), [*_ITSELF, "job"]))
        case ["warm-job", app]:
            return int(_part("runner").run_warm([*_ITSELF, "warm", app]))
        case ["job", folder]:
            loading = _part("loading")
            return int(_part("job").run(Path(folder), loading.AppLoader(), loading.with_model_store))
        case ["rank", folder, number, count]:
            loading = _part("loading")
            given = (Path(folder), int(number), int(count))
            return int(_part("rank").run_rank(*given, loading.AppLoader(), loading.with_model_store))
        case ["warm", _]:
            loading = _part("loading")
            first_step = importlib.import_module("labelserver.tasks.train_warm_up").first_step
            return int(_part("job").run_warm(loading.AppLoader(), loading.with_model_store, first_step))
        case _:
            sys.stderr.write(USAGE + "\n")
            return 2


def _part(name: str) -> Any:
    """A module of this room, loaded by need: the runner, which lives as long as its job, must stay small."""
    return importlib.import_module(f"labelserver.worker.{name}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
