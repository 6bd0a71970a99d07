"""Times, learning curve, stop advice and minutes saved, on the new routes. Times are Unix seconds."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from labelserver.domain.effort import Sign


class Happened(BaseModel):
    """Something that somebody did with an image."""

    model_config = ConfigDict(extra="forbid")

    kind: Sign
    at: float | None = Field(default=None, description="When; default: now. Not later, and at most an hour ago.")
    model: str = Field(default="", max_length=200, description="With proposal: which model.")
    version: str = Field(default="", max_length=200, description="With proposal: its version.")


class ActivityTold(BaseModel):
    """What happened since the last call."""

    model_config = ConfigDict(extra="forbid")

    events: list[Happened] = Field(min_length=1, max_length=1000)


class PieceShown(BaseModel):
    """One person's work on one image until the label was submitted."""

    number: int
    image: str
    person: str
    opened_ts: float
    edited_ts: float | None = Field(description="The first edit.")
    submitted_ts: float | None = Field(description="Null: not yet.")
    active_s: float = Field(description="Between signs of life; gaps of more than a minute are left out.")
    prompts: int
    tag: str
    revision: int | None
    model: str = Field(description="Whose proposal it began with; empty: drawn from nothing.")
    model_version: str
    voxels_changed: int | None = Field(description="Between proposal and label; null: not compared.")
    voxels: int | None = Field(description="Of proposal or label.")
    proposal_dice: float | None


class TimeLogShown(BaseModel):
    """A page of the time log."""

    pieces: list[PieceShown]
    next: int | None = Field(default=None, description="Send it as `after` for the next page; null on the last one.")


class CurvePointShown(BaseModel):
    """A version that was trained here."""

    version: int
    labels: int
    hours: float
    metric: float
    error: float | None = Field(description="Standard error over the held-out cases.")
    created_ts: float


class ForecastShown(BaseModel):
    """``a - b x^-c``, and what the next `step` brings, with a 90 % interval."""

    a: float
    b: float
    c: float
    x: float
    step: float
    gain: float
    low: float
    high: float


class CriterionShown(BaseModel):
    """One of three signs. `met`: null where nothing can be said."""

    name: str
    met: bool | None
    value: float | None
    limit: float
    sentence: str


class AdviceShown(BaseModel):
    """Stop if two of the three are met."""

    stop: bool
    sentence: str
    criteria: list[CriterionShown]


class CurveShown(BaseModel):
    """The learning curve of a model against labels and against hours of work."""

    model: str
    metric: str
    points: list[CurvePointShown]
    by_labels: ForecastShown | None = Field(description="Null: too few versions to fit a curve.")
    by_hours: ForecastShown | None
    advice: AdviceShown


class BenefitShown(BaseModel):
    """Minutes that a proposal of a version saves on an image; negative: it costs them. With a 90 % interval."""

    version: str
    saving: str = Field(description="saves, costs, unclear or too_few.")
    pieces: int
    minutes: float | None
    without: float | None
    saved: float | None
    low: float | None
    high: float | None
    within_people: bool = Field(description="People are compared with themselves.")
    sentence: str


class PersonShown(BaseModel):
    """What one person did."""

    person: str
    submitted: int
    hours: float
    minutes_per_image: float | None
    prompts: int


class VersionWork(BaseModel):
    """What one person did with the proposals of one version; `model` empty: without any."""

    model: str
    version: str
    person: str
    submitted: int
    minutes_per_image: float | None = Field(description="Median; null: not timed.")
    prompts: int
    voxels_changed: float | None = Field(description="Mean over those that were compared.")
    proposal_dice: float | None = Field(description="Mean Dice of proposal and label.")
    accepted: float | None = Field(description="Share with less than 1 % of the voxels changed.")


class BenefitList(BaseModel):
    """Of each version, each person's work, and both together."""

    benefits: list[BenefitShown]
    people: list[PersonShown]
    versions: list[VersionWork]
