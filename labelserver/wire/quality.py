"""Labels that deserve a second look, on the wire."""

from __future__ import annotations

from pydantic import BaseModel

from labelserver.domain.oddities import Oddity


class LabelOddity(BaseModel):
    """Something odd about an accepted label. `severity`: 0 to 1."""

    number: int
    image: str
    label: str
    kind: Oddity
    severity: float
    center_ijk: tuple[int, int, int]
    detail: str
    picture: str  #: path of a PNG below this server


class OddityList(BaseModel):
    """The most severe first."""

    oddities: list[LabelOddity]
