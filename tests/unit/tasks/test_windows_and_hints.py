"""Windows show voxels as they are where they can, prompts keep their shape on them, and exact marks stay as drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from labelserver.domain.geometry import Grid
from labelserver.domain.prompts import Prompt, PromptKind
from labelserver.tasks.auto_zoom import Scene, View, answered
from labelserver.tasks.hints import region_on
from labelserver.tasks.windows import Patch, Window, sampled, window_at

SQUARE = np.array([[11.0, 13, 13], [11, 19, 13], [17, 19, 13], [17, 13, 13]])


def test_a_window_as_fine_as_the_image_shows_its_voxels_unchanged() -> None:
    image = np.random.default_rng(0).normal(0, 1, (40, 41, 42))
    window = window_at(np.array([20.0, 19.0, 21.0]), Grid(image.shape, np.eye(4)), 16)
    lo, hi = window.box(image.shape)
    shown = image[tuple(slice(a, b) for a, b in zip(lo, hi, strict=True))]
    assert shown.shape == (16, 16, 16)
    assert np.array_equal(sampled(image, window), shown.astype(np.float32))


@pytest.mark.parametrize("offset", [0.0, 0.5, 0.25])
@pytest.mark.parametrize("step", [0.5, 1.0])
def test_a_region_has_no_gaps_wherever_the_window_lies(offset: float, step: float) -> None:
    window = Window((64, 64, 64), (15.0 + offset, 16.0 - offset, 13.0 + offset), (step, step, step))
    region = region_on(window, Prompt(PromptKind.LASSO, "", True, SQUARE))
    extents = [np.flatnonzero(region.any(axis=tuple(other for other in range(3) if other != axis))) for axis in (0, 1)]
    for places in extents:
        assert (np.diff(places) == 1).all()
        assert abs(len(places) - 7 / step) <= 1 / step
    plane = region.any(axis=2)
    assert plane.sum() == len(extents[0]) * len(extents[1])


@dataclass
class Stubborn:
    """An engine that always gives the same answer."""

    says: float
    roi: int = 16
    max_zoom: float = 4.0
    max_tiles: int = 4
    looks_at_all: bool = True
    corrects_locally: bool = False

    def answer(self, view: View) -> Patch:
        return np.where(view.on_image, np.float32(self.says), np.float32(0))


def final(engine: Stubborn, prompts: Sequence[tuple[Prompt, bool]], shape: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    grid = Grid(shape, np.diag([0.7, 0.7, 2.0, 1.0]))
    last = list(answered(engine, Scene(np.zeros(shape, np.int16), grid, prompts, len(prompts)), mask, 1))[-1]
    whole = np.zeros(shape, bool)
    whole[tuple(slice(a, a + n) for a, n in zip(last.lo, last.inside.shape, strict=True))] = last.inside
    return whole


def drawn(kind: PromptKind, points: list[list[float]], positive: bool) -> tuple[Prompt, bool]:
    return Prompt(kind, "", positive, np.array(points, dtype=float)), positive


@pytest.mark.parametrize("shape", [(40, 36, 14), (120, 110, 30), (40, 36, 1)])
def test_a_stubborn_engine_cannot_overrule_what_was_marked(shape: tuple[int, int, int]) -> None:
    k = float(shape[2] // 2)
    line = [[8.0, 9, k], [14, 9, k]]
    here, there = [[20.0, 18, k]], [[22.0, 18, k]]
    prompts = [
        drawn(PromptKind.SCRIBBLE, line, True),
        drawn(PromptKind.POINT, here, True),
        drawn(PromptKind.POINT, there, False),
    ]
    whole = final(Stubborn(0.0), prompts, shape)
    assert whole[8:15, 9, int(k)].all()
    assert whole[20, 18, int(k)]
    assert whole.sum() == 8
    whole = final(Stubborn(1.0), [(p, not s) for p, s in prompts], shape)
    assert not whole[8:15, 9, int(k)].any()
    assert not whole[20, 18, int(k)]
    assert whole[22, 18, int(k)]


def test_a_negative_box_is_empty_and_a_newer_positive_one_frees_it() -> None:
    negative = (Prompt(PromptKind.BOX, "", False, np.array([[8.0, 8, 4], [12, 12, 6]])), False)
    positive = (Prompt(PromptKind.BOX, "", True, np.array([[6.0, 6, 2], [14, 14, 8]])), True)
    point = drawn(PromptKind.POINT, [[10.0, 10, 5]], False)
    shape = (30, 30, 12)
    assert not final(Stubborn(1.0), [positive, negative], shape)[8:13, 8:13, 4:7].any()
    freed = final(Stubborn(1.0), [point, negative, positive], shape)
    assert freed[9, 9, 5]
    assert not freed[10, 10, 5], "a click stays, however a box is drawn over it"


def test_a_lasso_of_another_label_takes_nothing_by_itself() -> None:
    """It is a negative prompt for this label, and drawn roughly."""
    other = (Prompt(PromptKind.LASSO, "other", True, SQUARE[:, [0, 1, 2]]), False)
    own = drawn(PromptKind.POINT, [[13.0, 15, 13]], True)
    assert final(Stubborn(1.0), [own, other], (30, 30, 20))[15, 17, 13]
