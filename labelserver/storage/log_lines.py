"""How a log event becomes a line: a constant message, then its fields, so that people can read it and tools search it.

logger.info("job started", extra={"job_id": ...})
2026-01-31 12:00:00,123 INFO labelserver.engine.jobs job started job_id=...
"""

from __future__ import annotations

import json
import logging

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


def with_fields(record: logging.LogRecord) -> str:
    """The record's message and its fields as ``key=value``, without a traceback."""
    fields = " ".join(f"{key}={_value(value)}" for key, value in vars(record).items() if key not in _OWN)
    return f"{record.getMessage()} {fields}".rstrip()


class EventFormatter(logging.Formatter):
    """One event a line; line breaks in it are escaped. A traceback follows on lines of its own."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        line = f"{super().formatMessage(record)} {with_fields(record)}"
        return line.replace("\r", "\\r").replace("\n", "\\n")


def _value(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' "=\n\r') else text
