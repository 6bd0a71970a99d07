"""Where the server's log goes: a rotating file in the app folder and the console, one event a line.

Events are constant messages with fields (``logger.info("job started", extra={"job_id": ...})``). The fields are
appended as ``key=value``, so that people can read a line and tools can search it.
"""

from __future__ import annotations

import json
import logging
import logging.config
import logging.handlers
from pathlib import Path

from labelserver.cli.failing import CommandFailed

FILE_NAME = "labelserver.log"

#: as in the peer: ten files of 10 MiB
MAX_BYTES = 10 * 2**20
BACKUPS = 10

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


class EventFormatter(logging.Formatter):
    """``2026-01-31 12:00:00,123 INFO labelserver.engine job started job_id=...``; line breaks are escaped."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        line = super().formatMessage(record)
        fields = " ".join(f"{key}={_value(value)}" for key, value in vars(record).items() if key not in _OWN)
        return f"{line} {fields}".rstrip().replace("\r", "\\r").replace("\n", "\\n")


def _value(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' "=\n\r') else text


def set_up(folder: Path, *, level: str, console_level: str, config_file: Path | None = None) -> None:
    """Send this process's log to ``folder/labelserver.log`` and to standard error.

    Args:
        config_file: a JSON file for `logging.config.dictConfig` that replaces all of this.

    Raises:
        CommandFailed: `config_file` is not one.
    """
    if config_file is not None:
        try:
            logging.config.dictConfig(json.loads(config_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, AttributeError, ImportError) as error:
            raise CommandFailed(f"{config_file} is not a logging configuration in JSON: {error}") from error
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = logging.handlers.RotatingFileHandler(
        folder / FILE_NAME, maxBytes=MAX_BYTES, backupCount=BACKUPS, encoding="utf-8", delay=True
    )
    console = logging.StreamHandler()
    console.setLevel(console_level)
    for handler in (file, console):
        handler.setFormatter(EventFormatter())
    logging.basicConfig(level=level, handlers=[file, console], force=True)
    logging.captureWarnings(True)
