"""The simulated user clicks by the rule: largest 26-connected mistake, deepest voxel, first in C order."""

from __future__ import annotations

import numpy as np
import pytest

from labelserver.domain.geometry import Grid
from labelserver.domain.prompts import PromptKind, check_on
from labelserver.tasks.click_simulator import Drawing, SimulatedUser, largest_mistake

EMPTY = np.zeros((20, 18, 16), bool)


def cube(lo: int, size: int) -> np.ndarray:
    mask = EMPTY.copy()
    mask[lo : lo + size, lo : lo + size, lo : lo + size] = True
    return mask


def test_the_deepest_voxel_of_the_largest_mistake_is_clicked() -> None:
    truth = cube(2, 5) | cube(10, 3)
    prompt = SimulatedUser().next_prompt(EMPTY, truth, "organ")
    assert prompt is not None
    assert prompt.points.tolist() == [[4, 4, 4]]
    assert (prompt.kind, prompt.positive, prompt.label) == (PromptKind.POINT, True, "organ")


def test_what_is_too_much_gets_a_negative_click() -> None:
    prompt = SimulatedUser().next_prompt(cube(2, 5) | cube(9, 6), cube(2, 5))
    assert prompt is not None
    assert not prompt.positive
    assert cube(9, 6)[tuple(prompt.points[0].astype(int))]


def test_ties_go_to_the_first_in_c_order_and_touching_corners_connect() -> None:
    truth = EMPTY.copy()
    truth[3:5, 3:5, 3:5] = True
    truth[5:7, 5:7, 5:7] = True  # 26-connected to the first
    truth[12:14, 12:14, 12:14] = True
    mistake = largest_mistake(EMPTY, truth)
    assert mistake is not None
    assert mistake.size == 16
    prompt = SimulatedUser().next_prompt(EMPTY, truth)
    assert prompt is not None
    assert prompt.points.tolist() == [[3, 3, 3]]


def test_the_border_of_the_image_counts_as_outside() -> None:
    prompt = SimulatedUser().next_prompt(EMPTY, cube(0, 7))
    assert prompt is not None
    assert prompt.points.tolist() == [[3, 3, 3]]


def test_nothing_wrong_means_no_prompt() -> None:
    assert SimulatedUser().next_prompt(cube(2, 4), cube(2, 4)) is None


def test_jitter_stays_inside_the_mistake_and_repeats_for_a_seed() -> None:
    truth = cube(4, 7)
    seen = []
    for seed in range(8):
        twice = [SimulatedUser(seed, jitter=True).next_prompt(EMPTY, truth) for _ in range(2)]
        first, second = (p.points[0].astype(int) for p in twice if p is not None)
        assert first.tolist() == second.tolist()
        assert truth[tuple(first)]
        assert np.abs(first - 7).max() <= 2
        seen.append(tuple(first))
    assert len(set(seen)) > 1


def test_wrong_signs_are_as_rare_as_asked() -> None:
    user = SimulatedUser(seed=3, wrong=0.3)
    wrong = sum(not p.positive for _ in range(200) if (p := user.next_prompt(EMPTY, cube(2, 4))) is not None)
    assert 35 < wrong < 85


@pytest.mark.parametrize("drawing", list(Drawing))
@pytest.mark.parametrize("at", [0, 5])
def test_every_drawing_is_a_prompt_that_a_session_takes(drawing: Drawing, at: int) -> None:
    truth = cube(at, 6)
    prompt = SimulatedUser(first=drawing).next_prompt(EMPTY, truth)
    assert prompt is not None
    check_on(prompt, Grid(truth.shape, np.eye(4)), set(PromptKind))
    if prompt.mask is not None and drawing is Drawing.SCRIBBLE:
        assert truth[tuple(prompt.mask.indices().astype(int).T)].all()
    if drawing is Drawing.BOX:
        assert prompt.points.tolist() == [[at] * 3, [at + 5] * 3]
