"""What happens on the server, as one event of ``/api/v1/events``."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class ServerEvent(BaseModel):
    """An event. `id` only grows; an event of the kind ``gap`` has none: some before it are not kept any more."""

    model_config = ConfigDict(extra="ignore")

    kind: str
    id: int | None = None
    ts: float = 0.0
    data: dict[str, Any] = {}
    job_id: str = ""
