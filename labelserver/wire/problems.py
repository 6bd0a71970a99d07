"""How an error looks on the new routes: a problem document (RFC 9457)."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from labelserver.domain.errors import LabelServerError
from labelserver.domain.json_types import JsonObject

MEDIA_TYPE = "application/problem+json"


class Problem(BaseModel):
    """`code` is the name of our error class; ids worth knowing stand in `fields`."""

    model_config = ConfigDict(extra="ignore")

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str = ""
    fields: dict[str, str | int | float | bool | None] = {}

    @classmethod
    def from_domain(cls, error: LabelServerError, status: int) -> Problem:
        return cls(
            type=f"urn:labelserver:error:{error.code}",
            title=(type(error).__doc__ or error.code).strip().splitlines()[0].rstrip("."),
            status=status,
            detail=error.message,
            code=error.code,
            fields=error.fields,
        )

    def to_json(self) -> JsonObject:
        document: JsonObject = self.model_dump()
        return document
