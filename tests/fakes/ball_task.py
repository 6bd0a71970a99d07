"""A deterministic task for sessions: a ball round each point, a coarse cube first. Needs no torch."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from labelserver.contracts.progress import current_progress
from labelserver.domain.prompts import PromptKind
from labelserver.tasks.prompting import ClickState, Prediction, PromptedImage, PromptTask, painted

RADIUS = 3  #: voxels


class BallTask(PromptTask):
    """Paints balls. `params` may say ``do``: hang, die, raise, meet; files in `folder` are barriers and notes."""

    prompt_kinds = frozenset({PromptKind.POINT, PromptKind.SCRIBBLE, PromptKind.BOX})
    dimensions = frozenset({3})

    def __init__(self, folder: Path, labels: Any = None) -> None:
        super().__init__("deepgrow", labels or {"ball": 1, "other": 4}, 3, "Paints balls")
        self._folder = folder

    def __call__(self, request: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        raise NotImplementedError

    def prepare(self, image: PromptedImage) -> Any:
        if (self._folder / "unpreparable").exists():
            raise RuntimeError("no ball fits")
        self.note("prepare")
        return {"image": image, "sum": int(image.voxels.sum())}

    def predict(self, prepared: Any, clicks: ClickState) -> Iterator[Prediction]:
        new = clicks.prompts[len(clicks.prompts) - clicks.new :]
        prompt = new[-1] if new else clicks.prompts[-1]
        center = np.rint(prompt.points.mean(axis=0)).astype(int) if len(prompt.points) else np.zeros(3, int)
        self._obey(prompt.label)
        lo = np.maximum(center - RADIUS, 0)
        hi = np.minimum(center + RADIUS + 1, clicks.mask.shape)
        start = (int(lo[0]), int(lo[1]), int(lo[2]))
        value = clicks.value_of(prompt)
        cube = np.ones(hi - lo, dtype=bool)
        if clicks.params.get("coarse", True):
            yield Prediction(start, painted(clicks.mask, start, cube, value), final=False)
        away = sum((axis - c) ** 2 for axis, c in zip(np.indices(cube.shape), center - lo, strict=True))
        inside = away <= RADIUS**2
        before = clicks.mask[tuple(slice(a, b) for a, b in zip(lo, hi, strict=True))]
        inside = (before == value) | inside if prompt.positive else (before == value) & ~inside
        yield Prediction(start, painted(clicks.mask, start, inside, value), notes={"new": clicks.new})

    def note(self, what: str) -> None:
        with (self._folder / "notes").open("a") as stream:
            stream.write(what + "\n")

    def _obey(self, label: str) -> None:
        order = self._folder / "order"
        what = order.read_text() if order.exists() else ""
        if what:
            order.unlink()
        match what:
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "raise":
                raise RuntimeError("the ball is flat")
            case "hang" | "meet":
                (self._folder / "at-order").touch()
                pause = threading.Event()
                while not (self._folder / "pass-order").exists():
                    if what == "meet" and current_progress().should_stop():
                        return
                    pause.wait(0.005)
            case _:
                pass
