"""The simulated user at a running server: one session of ``/api/v1/sessions`` for each object.

Times of a prompt: the engine's and the server's own come from ``Server-Timing``, the wire is what the caller waited
beyond that (network, encoding of the request, decoding of the answer).
"""

from __future__ import annotations

import getpass
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from labelserver.app.click_evaluation import Answered, Clicker
from labelserver.cli.failing import CommandFailed
from labelserver.domain.geometry import Grid
from labelserver.domain.ids import ImageId
from labelserver.domain.prompts import Prompt, PromptFrame
from labelserver.learning.click_metrics import Times
from labelserver.wire.mask_box import MEDIA_TYPE_ZSTD, decode_box

_STAGE = re.compile(r"(\w+);dur=([0-9.]+)")
#: seconds; a first click may wait for a worker to start and a large image to be read.
_PATIENCE_S = 300.0


@contextmanager
def serving_clicker(url: str, model: str) -> Iterator[Clicker]:
    """A clicker for `model` of the server at `url`. Its refusals become `CommandFailed`."""
    try:
        person = getpass.getuser()
    except (OSError, KeyError):
        person = "evaluation"
    headers = {"X-Labelserver-Person": person}
    try:
        with httpx.Client(base_url=url, timeout=_PATIENCE_S, headers=headers) as http:
            yield ServerClicker(http, model)
    except httpx.HTTPError as error:
        raise CommandFailed(f"No answer from {url}: {error}") from error


class ServerClicker:
    """Keeps the mask that the server's changes add up to."""

    def __init__(self, http: httpx.Client, model: str) -> None:
        self._http, self._model = http, model
        self._session = ""

    def open(self, image: Path, label: str, image_id: ImageId) -> Grid:
        asked = {"task": self._model, "image": image_id}
        found = self._checked(self._http.post("/api/v1/sessions", json=asked)).json()
        self._session = str(found["id"])
        shape = (int(found["shape"][0]), int(found["shape"][1]), int(found["shape"][2]))
        values = {str(name): int(value) for name, value in found["labels"].items() if value > 0}
        self._label = label if label in values else ""
        self._value = values.get(label) or next(iter(values.values()), 1)
        self._mask = np.zeros(shape, dtype=bool)
        return Grid(shape, np.asarray(found["affine"], dtype=np.float64))

    def ask(self, prompt: Prompt) -> Answered:
        begun = time.perf_counter()
        answer = self._checked(
            self._http.post(
                f"/api/v1/sessions/{self._session}/prompts",
                json={"prompts": [as_json(replace(prompt, label=self._label))]},
                headers={"Accept": MEDIA_TYPE_ZSTD},
            )
        )
        change = decode_box(answer.content, expected_shape=self._mask.shape)
        self._mask[change.box.slices] = np.asarray(change.voxels) == self._value
        waited = time.perf_counter() - begun
        stages = {name: float(ms) / 1000 for name, ms in _STAGE.findall(answer.headers.get("Server-Timing", ""))}
        server = sum(seconds for name, seconds in stages.items() if name != "total")
        engine = sum(stages.get(name, 0.0) for name in ("pre", "forward", "post"))
        notes = change.params.get("notes") if isinstance(change.params, dict) else None
        zoom = notes.get("zoom") if isinstance(notes, dict) else None
        times = Times(engine, server, max(waited - server, 0.0))
        return Answered(self._mask, times, float(zoom) if isinstance(zoom, int | float) else 1.0)

    def close(self) -> None:
        if self._session:
            self._checked(self._http.delete(f"/api/v1/sessions/{self._session}"))
            self._session = ""

    @staticmethod
    def _checked(answer: httpx.Response) -> httpx.Response:
        if answer.is_error:
            raise CommandFailed(_sentence(answer))
        return answer


def as_json(prompt: Prompt) -> dict[str, Any]:
    """A prompt as ``/api/v1/sessions/{id}/prompts`` takes it."""
    found: dict[str, Any] = {"kind": prompt.kind.value, "label": prompt.label, "positive": prompt.positive}
    if prompt.mask is not None:
        return {**found, "mask": prompt.mask.to_json()}
    return {**found, "points": prompt.points.tolist(), "frame": PromptFrame.VOXEL.value}


def _sentence(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"The server answered {answer.status_code} to {answer.request.url.path}."
