"""An inference as a value: what goes to a worker and what comes back."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from labelserver.domain.ids import ImageId
from labelserver.domain.json_types import JsonObject
from labelserver.domain.paths import RootedPath


class OutputMode(StrEnum):
    """What ``POST /infer/{model}`` answers with."""

    ALL = "all"
    IMAGE = "image"
    JSON = "json"
    DICOM_SEG = "dicom_seg"


class Priority(IntEnum):
    """Order in which a worker takes requests; smaller first."""

    CLICK = 0
    OPEN_IMAGE = 1
    BATCH = 2
    SCORING = 3


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One inference. Exactly one of `image_id` and `image_file` is given.

    `params` are the caller's options without the reserved keys (model, image, label file, session): these come from the
    route alone. `label` inside `params` is the *name* of an active label (a click option of the peer's clients).
    """

    model: str
    image_id: ImageId | None = None
    image_file: RootedPath | None = None  #: an upload or a session's file or DICOM folder
    label_file: RootedPath | None = None  #: an uploaded mask (scribbles)
    session: JsonObject | None = None  #: the upload's document, passed on to the task
    params: JsonObject = field(default_factory=dict)
    person: str = ""
    priority: Priority = Priority.OPEN_IMAGE

    def to_json(self) -> JsonObject:
        return {
            "model": self.model,
            "image_id": self.image_id,
            "image_file": self.image_file.to_json() if self.image_file else None,
            "label_file": self.label_file.to_json() if self.label_file else None,
            "session": self.session,
            "params": self.params,
            "person": self.person,
            "priority": int(self.priority),
        }

    @classmethod
    def from_json(cls, document: JsonObject) -> InferRequest:
        image_id, params, session = document.get("image_id"), document.get("params"), document.get("session")
        return cls(
            model=str(document["model"]),
            image_id=ImageId(image_id) if isinstance(image_id, str) else None,
            image_file=RootedPath.from_json(document["image_file"]) if document.get("image_file") else None,
            label_file=RootedPath.from_json(document["label_file"]) if document.get("label_file") else None,
            session=session if isinstance(session, dict) else None,
            params=params if isinstance(params, dict) else {},
            person=str(document.get("person", "")),
            priority=Priority(int(str(document.get("priority", Priority.OPEN_IMAGE.value)))),
        )


@dataclass(frozen=True, slots=True)
class InferAnswer:
    """What a worker answers. `file` lies in the spool (root STATE) and belongs to the receiver, who deletes it.

    `box` is the mask as `wire.mask_box` encodes it, for who asked for one; it travels beside the JSON.
    """

    params: JsonObject  #: label_names, latencies, centroids, prediction, ...
    file: RootedPath | None = None
    ext: str = ""  #: of the file, with dots
    saved_label: tuple[str, str] | None = None  #: (label id, tag) if ``save_label`` was asked for
    model_version: str = ""
    box: bytes | None = None

    def to_json(self) -> JsonObject:
        return {
            "params": self.params,
            "file": self.file.to_json() if self.file else None,
            "ext": self.ext,
            "saved_label": list(self.saved_label) if self.saved_label else None,
            "model_version": self.model_version,
        }

    @classmethod
    def from_json(cls, document: JsonObject, box: bytes | None = None) -> InferAnswer:
        saved, params = document.get("saved_label"), document.get("params")
        return cls(
            params=params if isinstance(params, dict) else {},
            file=RootedPath.from_json(document["file"]) if document.get("file") else None,
            ext=str(document.get("ext", "")),
            saved_label=(str(saved[0]), str(saved[1])) if isinstance(saved, list) and len(saved) == 2 else None,
            model_version=str(document.get("model_version", "")),
            box=box,
        )
