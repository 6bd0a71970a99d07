"""``--serve``: the model stays loaded, and each folder that is put into the input is answered in the output.

A folder, not a port: there is nothing to open, nobody to let in, and a case that waits survives a restart. The rules:

- A case is a sub-folder of the input. Fill it under a name that begins with a dot, then rename it: a rename is whole.
- ``OUT/<case>/`` appears whole, by a rename too. ``OUT/<case>.failed.json`` says why there is none.
- A case that has either is done; remove it to have the case answered again. Cases are taken in the order of names.
- SIGTERM or Ctrl-C ends after the case at hand.
"""

from __future__ import annotations

import json
import logging
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from labelserver.domain.errors import LabelServerError
from labelserver.export.application.runtime.running import Run

#: seconds between two looks into an input folder that had nothing new
LOOK_S = 0.25

logger = logging.getLogger(__name__)


def serve(answer: Callable[[Path, Path], Run], source: Path, target: Path, stop: threading.Event) -> int:
    """Answer cases until `stop` is set. Returns how many were answered.

    Args:
        answer: input and output folder of one case to what was written.
        source: where cases appear.
        target: where answers appear; made if missing.
        stop: looked at between two cases.
    """
    target.mkdir(parents=True, exist_ok=True)
    done = 0
    for left in target.glob(".labelserver-case-*"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    while not stop.is_set():
        case = next((c for c in sorted(source.iterdir()) if _waits(c, target)), None)
        if case is None:
            stop.wait(LOOK_S)
            continue
        done += _answered(answer, case, target)
    return done


def stop_on_signals() -> threading.Event:
    """Set by SIGTERM and SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _waits(case: Path, target: Path) -> bool:
    if case.name.startswith(".") or case.is_symlink() or not case.is_dir():
        return False
    return not (target / case.name).exists() and not _failure(case, target).exists()


def _failure(case: Path, target: Path) -> Path:
    return target / f"{case.name}.failed.json"


def _answered(answer: Callable[[Path, Path], Run], case: Path, target: Path) -> bool:
    hidden = target / f".labelserver-case-{case.name}"
    try:
        run = answer(case, hidden)
    except LabelServerError as error:
        shutil.rmtree(hidden, ignore_errors=True)
        half = target / f".{case.name}.failed.json"
        half.write_text(json.dumps({"code": error.code, "message": error.message}, indent=2) + "\n", encoding="utf-8")
        half.replace(_failure(case, target))
        logger.error("%s: %s", case.name, error.message)
        return False
    hidden.replace(target / case.name)
    logger.info("%s: %d files written", case.name, len(run.files))
    return True
