"""How an app asks its server for a job: through the HTTP door, as any client would."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeAlias
from urllib.parse import quote

import httpx

from labelserver.domain.jobs import JobKind
from labelserver.settings import Settings

logger = logging.getLogger(__name__)

#: ``submit(kind, task, params, enqueue) -> record`` or None if it was not taken.
JobSubmitter: TypeAlias = Callable[[JobKind, str, dict[str, Any], bool], Any]

_ROUTES = {JobKind.TRAIN: "train", JobKind.SCORING: "scoring", JobKind.BATCH_INFER: "batch/infer"}

#: seconds; submitting a job does not wait for it
TIMEOUT_S = 30.0


def over_http(settings: Settings, transport: httpx.BaseTransport | None = None) -> JobSubmitter:
    """A submitter that posts to the server on this machine; where none listens, the answer is None."""

    def submit(kind: JobKind, task: str, params: dict[str, Any], enqueue: bool) -> Any:
        query: dict[str, Any] = {}
        if enqueue:
            query["enqueue"] = "true"
        if kind is JobKind.BATCH_INFER and isinstance(params.get("images"), str):
            query["images"] = params["images"]
        base = f"http://127.0.0.1:{settings.port}{settings.api_prefix}"
        try:
            with httpx.Client(transport=transport, timeout=TIMEOUT_S) as client:
                answer = client.post(f"{base}/{_ROUTES[kind]}/{quote(task, safe='')}", params=query, json=params)
            return answer.json() if answer.is_success else None
        except httpx.HTTPError as error:
            logger.warning("no server took the job", extra={"kind": kind.value, "task": task, "error": str(error)})
            return None

    return submit
