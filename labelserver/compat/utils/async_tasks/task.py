"""Background tasks by MONAI Label's name; the server runs them as jobs."""

from __future__ import annotations

from typing import Any

from labelserver import settings as settings_module
from labelserver.app.job_requests import over_http
from labelserver.domain.jobs import JobKind


class AsyncTask:
    """Starts jobs."""

    @staticmethod
    def run(
        method: str, request: dict[str, Any] | None = None, params: dict[str, Any] | None = None, enqueue: bool = False
    ) -> tuple[Any, str | None]:
        """Start ``train``, ``scoring`` or ``batch_infer``: the record and None, or None and a sentence."""
        asked = {**(request or {}), **(params or {})}
        task = str(asked.pop("method" if method == JobKind.SCORING else "model", ""))
        record = over_http(settings_module.current())(JobKind(method), task, asked, enqueue)
        return (record, None) if record is not None else (None, f"The server did not take the job {task}.")
