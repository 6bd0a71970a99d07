"""Interactive sessions over HTTP: what is asked, and what is answered. Times are Unix seconds."""

from __future__ import annotations

import base64
import math
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from labelserver.domain.interaction import OpenSession, SessionAnswer
from labelserver.domain.prompts import PromptKind
from labelserver.wire.prompts import PromptIn


class SessionRequest(BaseModel):
    """Exactly one of `image` and `upload`."""

    model_config = ConfigDict(extra="forbid")

    task: str = Field(description="A model that takes prompts; GET /api/v1/sessions/models lists them.")
    image: str = Field(default="", description="Id of an image of the datastore.")
    upload: str = Field(default="", description="Id that PUT /session/ answered, for an image outside the datastore.")
    params: dict[str, Any] = Field(default_factory=dict, description="Options of the model.")


class PrefetchRequest(BaseModel):
    """An image that somebody will open soon."""

    model_config = ConfigDict(extra="forbid")

    task: str
    image: str = Field(description="Id of an image of the datastore.")


class PromptRequest(BaseModel):
    """New prompts. None: predict with those that wait."""

    model_config = ConfigDict(extra="forbid")

    prompts: list[PromptIn] = Field(default_factory=list, max_length=1000)
    predict: bool = Field(default=True, description="False: keep them, predict with the next ones.")


class ResetRequest(BaseModel):
    """How to begin anew."""

    model_config = ConfigDict(extra="forbid")

    forget: bool = Field(default=False, description="True: undo cannot bring back what was there.")


class AcceptRequest(BaseModel):
    """The mask as a label."""

    model_config = ConfigDict(extra="forbid")

    tag: str = "final"
    info: dict[str, Any] = Field(default_factory=dict, description="Free; kept with the revision.")


class SessionDocument(BaseModel):
    """An open session."""

    model_config = ConfigDict(extra="ignore")

    id: str
    task: str
    image: str | None
    shape: tuple[int, int, int] = Field(description="Voxels of the image along i, j, k.")
    affine: list[list[float]] = Field(description="Voxel index to RAS+ in mm, 4 x 4.")
    labels: dict[str, int] = Field(description="Name -> value in the mask.")
    prompt_kinds: list[PromptKind]
    conversions: dict[str, str] = Field(description="Kinds that the model turns into others, and how.")
    params: dict[str, Any]
    created_ts: float
    expires_ts: float | None = Field(description="Each use puts it off; null: never.")
    undoable: int = Field(description="Steps that undo takes back.")
    redoable: int
    prompts: int = Field(description="Prompts in force.")
    model_version: str

    @classmethod
    def from_domain(cls, session: OpenSession) -> Self:
        return cls(
            id=session.session_id,
            task=session.task,
            image=session.image_id,
            shape=session.grid.shape,
            affine=session.grid.affine.tolist(),
            labels=session.label_values,
            prompt_kinds=sorted(session.prompt_kinds),
            conversions=session.conversions,
            params=dict(session.params),
            created_ts=session.created_ts,
            expires_ts=session.expires_ts if math.isfinite(session.expires_ts) else None,
            undoable=session.undoable,
            redoable=session.redoable,
            prompts=session.prompts,
            model_version=session.model_version,
        )


class SessionList(BaseModel):
    """The caller's open sessions, the latest used first."""

    model_config = ConfigDict(extra="ignore")

    sessions: list[SessionDocument]


class PromptModel(BaseModel):
    """A model that takes prompts."""

    model_config = ConfigDict(extra="ignore")

    name: str
    description: str
    labels: dict[str, int]
    prompt_kinds: list[PromptKind]
    conversions: dict[str, str]
    dimensions: list[int]


class PromptModelList(BaseModel):
    """The models that take prompts."""

    model_config = ConfigDict(extra="ignore")

    models: list[PromptModel]


class ChangedVoxels(BaseModel):
    """The new content of the box [lo, hi): label values as uint8 in C order (k fastest), base64."""

    model_config = ConfigDict(extra="ignore")

    lo: tuple[int, int, int]
    hi: tuple[int, int, int]
    voxels: str

    def array(self) -> NDArray[np.uint8]:
        """(A, B, C)."""
        shape = [high - low for low, high in zip(self.lo, self.hi, strict=True)]
        return np.frombuffer(base64.b64decode(self.voxels), dtype=np.uint8).reshape(shape)


class PromptAnswer(BaseModel):
    """What a change of the session did. In a binary answer this is its JSON, and `change` its voxels."""

    model_config = ConfigDict(extra="ignore")

    ran: bool = Field(description="False: nothing was predicted or taken back.")
    final: bool = Field(default=True, description="False: a coarse answer, shown until the final one covers it.")
    undoable: int = 0
    redoable: int = 0
    prompts: int = 0
    model_version: str = ""
    seconds: dict[str, float] = Field(default_factory=dict)
    notes: dict[str, Any] = Field(default_factory=dict)
    change: ChangedVoxels | None = Field(default=None, description="Null: no voxel changed.")

    @classmethod
    def from_domain(cls, answer: SessionAnswer, session: OpenSession | None) -> Self:
        """Without the voxels."""
        return cls(
            ran=answer.ran,
            final=answer.final,
            undoable=session.undoable if session else 0,
            redoable=session.redoable if session else 0,
            prompts=session.prompts if session else 0,
            model_version=answer.model_version,
            seconds=answer.seconds,
            notes=dict(answer.notes),
        )

    def with_voxels(self, answer: SessionAnswer) -> Self:
        """With the voxels of `answer`, for JSON."""
        if answer.change.empty:
            return self
        voxels = base64.b64encode(np.ascontiguousarray(answer.change.values).tobytes()).decode()
        return self.model_copy(
            update={"change": ChangedVoxels(lo=answer.change.lo, hi=answer.change.hi, voxels=voxels)}
        )
