"""What is known of images for strategies, on the wire."""

from __future__ import annotations

from pydantic import BaseModel


class ScoredKind(BaseModel):
    """How far one kind of look has got."""

    kind: str  #: the model, or ``intensity``
    version: str  #: first digits of the checksum of the weights
    images: int
    last_ts: float  #: Unix seconds
    current: bool  #: the newest version of its kind


class ScoreOverview(BaseModel):
    """How far scoring has got."""

    images: int  #: present
    kinds: list[ScoredKind]
    names: list[str] = []  #: what ``/api/v1/images`` can be sorted by
    job: str = ""  #: id of the scoring that waits or runs


class ImageScores(BaseModel):
    """What the last look at an image gave. Scores are 0 to 1, larger means less sure."""

    image: str
    kind: str
    version: str
    ts: float
    content: str  #: SHA-256 of the image's files then
    scores: dict[str, float]
    classes: list[float]  #: entropy weighted by each class but background
    picture: bool  #: whether there is a map of the doubt
    stale: bool  #: the image's files are others now
