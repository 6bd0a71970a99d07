"""An interactive session from Python: draw, and the mask on this side follows.

    with client.open_session("seeds", "liver_001") as session:
        session.click((120, 96, 40))
        session.click((130, 90, 40), positive=False)
        session.undo()
        revision = session.accept()

`mask` is what the server has: after each call the box that changed is pasted into it. Points are voxel indices of the
stored image unless `frame` says millimetres (``ras``, ``lps``).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from labelserver.client.answers import as_object
from labelserver.client.calling import Caller
from labelserver.client.errors import AnswerUnclear, RequestFailed, failure_of
from labelserver.domain.errors import LabelServerError
from labelserver.domain.json_types import JsonObject
from labelserver.domain.prompts import PromptFrame, PromptKind
from labelserver.wire.labels import LabelRevision
from labelserver.wire.mask_box import EXTENSION, MEDIA_TYPE_ZSTD, Box, MaskBox, changed_box, decode_box, encode_box
from labelserver.wire.sessions import PromptAnswer, PromptModel, PromptModelList, SessionDocument, SessionList

_STREAM = "application/vnd.labelserver.boxes+zstd"

Point = Sequence[float]
#: called with a copy of the mask as a coarse answer shows it
OnCoarse = Callable[[NDArray[np.uint8]], None]


class InteractiveSession:
    """One open session. Made by `LabelServerClient.open_session`; `close` forgets it on the server, too."""

    def __init__(self, caller: Caller, document: SessionDocument) -> None:
        self._caller = caller
        self._path = f"/api/v1/sessions/{document.id}"
        self.document = document
        self.mask: NDArray[np.uint8] = np.zeros(document.shape, dtype=np.uint8)  #: (I, J, K), values of `labels`

    @property
    def id(self) -> str:
        return self.document.id

    @property
    def labels(self) -> dict[str, int]:
        """Name -> value in the mask."""
        return self.document.labels

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def click(self, point: Point, *, label: str = "", positive: bool = True, frame: str = "voxel") -> PromptAnswer:
        """One point; the mask is as the model answers it."""
        return self.prompt([_points(PromptKind.POINT, [point], label, positive, frame)])

    def box(
        self, first: Point, second: Point, *, label: str = "", positive: bool = True, frame: str = "voxel"
    ) -> PromptAnswer:
        """Two opposite corners, both inside the box."""
        return self.prompt([_points(PromptKind.BOX, [first, second], label, positive, frame)])

    def scribble(
        self, points: Sequence[Point], *, label: str = "", positive: bool = True, frame: str = "voxel"
    ) -> PromptAnswer:
        """Points along a line that was drawn."""
        return self.prompt([_points(PromptKind.SCRIBBLE, points, label, positive, frame)])

    def lasso(
        self, points: Sequence[Point], *, label: str = "", positive: bool = True, frame: str = "voxel"
    ) -> PromptAnswer:
        """The outline of a region in one slice."""
        return self.prompt([_points(PromptKind.LASSO, points, label, positive, frame)])

    def draw(
        self,
        mask: NDArray[Any],
        kind: str = "mask",
        *,
        label: str = "",
        positive: bool = True,
        predict: bool = False,
    ) -> PromptAnswer:
        """Send a mask of the image's shape: what is known already, or a scribble or lasso as voxels."""
        voxels = np.asarray(mask) != 0
        box = changed_box(None, voxels) or Box((0, 0, 0), (1, 1, 1))
        params = {"kind": kind, "label": label, "positive": positive, "predict": predict}
        body = encode_box(voxels, box, params=params)
        return self._changed("prompts", content=body, headers={"Content-Type": MEDIA_TYPE_ZSTD})

    def prompt(
        self, prompts: Sequence[JsonObject], *, predict: bool = True, on_coarse: OnCoarse | None = None
    ) -> PromptAnswer:
        """Send prompts as the HTTP route takes them. `on_coarse` is shown coarse answers meanwhile."""
        document: JsonObject = {"prompts": list(prompts), "predict": predict}
        if on_coarse is None:
            return self._changed("prompts", json=document)
        return self._streamed(document, on_coarse)

    def undo(self) -> PromptAnswer:
        """Take back the last step; the answer's `ran` is false if there is none."""
        return self._changed("undo")

    def redo(self) -> PromptAnswer:
        """Make the last undone step again."""
        return self._changed("redo")

    def reset(self, *, forget: bool = False) -> PromptAnswer:
        """Empty the mask; with `forget`, undo cannot bring it back."""
        return self._changed("reset", json={"forget": forget})

    def download_mask(self, folder: Path | None = None, ext: str = ".nii.gz") -> Path:
        """The whole mask as a file on the image's grid."""
        return self._caller._download(f"{self._path}/mask", {"ext": ext}, folder, f"mask{ext}", None)

    def accept(self, tag: str = "final", info: JsonObject | None = None) -> LabelRevision:
        """Make the mask a label of the image."""
        answer = self._caller._json("POST", f"{self._path}/accept", json={"tag": tag, "info": info or {}})
        return self._caller._parsed(LabelRevision, answer)

    def refresh(self) -> SessionDocument:
        """How the session is now."""
        self.document = self._caller._parsed(SessionDocument, self._caller._json("GET", self._path))
        return self.document

    def close(self) -> None:
        """Forget the session and everything drawn in it. Safe to call twice."""
        try:
            self._caller._request("DELETE", self._path)
        except RequestFailed as error:
            if error.status != 404:
                raise

    def _changed(self, verb: str, **options: Any) -> PromptAnswer:
        headers = {**options.pop("headers", {}), "Accept": MEDIA_TYPE_ZSTD}
        answer = self._caller._request("POST", f"{self._path}/{verb}", headers=headers, **options)
        return self._pasted(self._box(answer.content))

    def _streamed(self, document: JsonObject, on_coarse: OnCoarse) -> PromptAnswer:
        http = self._caller._http
        headers = {"Accept": _STREAM}
        with (
            self._caller._reaching(),
            http.stream("POST", f"{self._path}/prompts", json=document, headers=headers) as answer,
        ):
            if not answer.is_success:
                answer.read()
                raise failure_of(answer)
            for data in _boxes(answer.iter_bytes()):
                box = self._box(data)
                problem = box.params.get("problem")
                if isinstance(problem, dict):
                    raise RequestFailed(int(str(problem.get("status", 500))), str(problem.get("detail", "")))
                if box.params.get("final", True):
                    return self._pasted(box)
                shown = self.mask.copy()
                box.paste_into(shown)
                on_coarse(shown)
        raise AnswerUnclear("The answer ended before its last part. Ask for the mask with download_mask.")

    def _box(self, data: bytes) -> MaskBox:
        try:
            return decode_box(data, expected_shape=self.document.shape)
        except LabelServerError as error:
            raise AnswerUnclear(error.message) from error

    def _pasted(self, box: MaskBox) -> PromptAnswer:
        box.paste_into(self.mask)
        return self._caller._parsed(PromptAnswer, as_object(box.params))


def prompt_models(caller: Caller) -> list[PromptModel]:
    """See `SessionCalls`."""
    return caller._parsed(PromptModelList, caller._json("GET", "/api/v1/sessions/models")).models


def open_session(caller: Caller, task: str, image_id: str, upload_id: str, params: JsonObject) -> InteractiveSession:
    """See `SessionCalls`."""
    asked: JsonObject = {"task": task, "image": image_id, "upload": upload_id, "params": params}
    document = caller._parsed(SessionDocument, caller._json("POST", "/api/v1/sessions", json=asked))
    return InteractiveSession(caller, document)


def open_sessions(caller: Caller, image_id: str) -> list[SessionDocument]:
    """See `SessionCalls`."""
    query = {"image": image_id} if image_id else {}
    return caller._parsed(SessionList, caller._json("GET", "/api/v1/sessions", params=query)).sessions


def resume_session(caller: Caller, session_id: str) -> InteractiveSession:
    """See `SessionCalls`."""
    document = caller._parsed(SessionDocument, caller._json("GET", f"/api/v1/sessions/{session_id}"))
    session = InteractiveSession(caller, document)
    answer = caller._request("GET", f"{session._path}/mask", params={"ext": EXTENSION})
    decode_box(answer.content, expected_shape=document.shape).paste_into(session.mask)
    return session


def _points(kind: PromptKind, points: Sequence[Point], label: str, positive: bool, frame: str) -> JsonObject:
    numbers = [[float(value) for value in point] for point in points]
    return {
        "kind": kind.value,
        "points": numbers,
        "frame": PromptFrame(frame).value,
        "label": label,
        "positive": positive,
    }


def _boxes(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The boxes of a streamed answer, each with its length in front."""
    held = b""
    for chunk in chunks:
        held += chunk
        while len(held) >= 4 and len(held) >= 4 + (size := struct.unpack_from("<I", held)[0]):
            yield held[4 : 4 + size]
            held = held[4 + size :]
