"""Where the server's log goes: a rotating file in the app folder and the console, one event a line.

What a line looks like is said in `storage.log_lines`.
"""

from __future__ import annotations

import json
import logging
import logging.config
import logging.handlers
from pathlib import Path

from labelserver.cli.failing import CommandFailed
from labelserver.storage.log_lines import EventFormatter

FILE_NAME = "labelserver.log"

#: as in the peer: ten files of 10 MiB
MAX_BYTES = 10 * 2**20
BACKUPS = 10


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
