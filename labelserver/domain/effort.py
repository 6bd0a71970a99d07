"""What labeling costs people: pieces of work with their times, and what people do in them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from labelserver.domain.ids import ImageId

#: seconds; a longer silence is not work
LONGEST_GAP_S = 60.0


class Sign(StrEnum):
    """What somebody did with an image."""

    OPEN = "open"  #: looks at it first
    ACTIVE = "active"  #: is still there: scrolls, zooms, asks
    EDIT = "edit"  #: draws
    PROMPT = "prompt"  #: clicks, boxes, scribbles for a model
    PROPOSAL = "proposal"  #: is shown what a model thinks


@dataclass(frozen=True, slots=True)
class Proposal:
    """The mask that somebody began with. `tag` and `revision` where it is a stored label."""

    model: str
    version: str
    tag: str = ""
    revision: int | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """One person's work on one image until the label was submitted."""

    number: int
    image_id: ImageId
    person: str
    opened_ts: float  #: Unix seconds
    edited_ts: float | None  #: the first edit
    submitted_ts: float | None  #: None: not yet
    active_s: float  #: between signs of life, gaps of more than `LONGEST_GAP_S` left out
    prompts: int
    tag: str
    revision: int | None
    proposal: Proposal | None  #: None: drawn from nothing
    voxels_changed: int | None  #: between proposal and label
    voxels: int | None  #: in proposal or label
    proposal_dice: float | None  #: mean over the labels; None: no proposal, or not compared yet

    @property
    def accepted(self) -> bool | None:
        """Was the proposal as good as right: less than one voxel of a hundred changed? None: not known."""
        if self.voxels_changed is None or self.voxels is None:
            return None
        return self.voxels_changed < 0.01 * max(1, self.voxels)
