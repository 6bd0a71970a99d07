"""Prompts without weights: every kind answers where it was drawn, on any grid, and corrections stay local."""

from __future__ import annotations

import numpy as np
import pytest

from labelserver.domain.errors import InvalidParams
from labelserver.domain.geometry import Grid
from labelserver.domain.prompts import MaskBox, Prompt, PromptKind
from labelserver.learning.click_metrics import dice
from labelserver.tasks.click_simulator import SimulatedUser
from labelserver.tasks.drawn_voxels import EXACT, ROUGH
from labelserver.tasks.prompting import ClickState, PromptedImage
from labelserver.tasks.seeds import Seeds

LABELS = {"organ": 1, "other": 2}


def scene(shape: tuple[int, int, int] = (40, 36, 30)) -> tuple[np.ndarray, np.ndarray]:
    """A bright ellipsoid and an equally bright one beside it, in noise."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    size = np.array([9.0, 8.0, 6.0 if shape[2] > 1 else 1e6])
    middle = np.array([14.0, 16.0, 13.0 if shape[2] > 1 else 0.0])
    organ = (((grid - middle) / size) ** 2).sum(-1) < 1
    beside = (((grid - middle - [19, 3, 0]) / size) ** 2).sum(-1) < 1
    image = np.where(organ | beside, 100, 0) + np.random.default_rng(0).normal(0, 12, shape)
    return image.astype(np.int16), organ


class Session:
    def __init__(self, image: np.ndarray, affine: np.ndarray | None = None, task: Seeds | None = None) -> None:
        self.task = task or Seeds(LABELS, roi=48)
        grid = Grid(image.shape[:3], np.eye(4) if affine is None else affine)
        self.prepared = self.task.prepare(PromptedImage(image, grid))
        self.mask = np.zeros(image.shape[:3], np.uint8)
        self.prompts: list[Prompt] = []

    def ask(self, *prompts: Prompt) -> np.ndarray:
        self.prompts += prompts
        state = ClickState(tuple(self.prompts), len(prompts), self.mask.copy(), LABELS)
        answers = list(self.task.predict(self.prepared, state))
        assert [a.final for a in answers] == [False] * (len(answers) - 1) + [True]
        last = answers[-1]
        self.mask[tuple(slice(a, a + n) for a, n in zip(last.lo, last.values.shape, strict=True))] = last.values
        return self.mask


def point(at: tuple[float, ...], positive: bool = True, label: str = "organ") -> Prompt:
    return Prompt(PromptKind.POINT, label, positive, np.array([at], dtype=float))


@pytest.mark.parametrize(
    "affine",
    [np.eye(4), np.diag([-0.8, -0.8, 0.8, 1]), np.array([[0, 0, 1, 5], [0, -1, 0, 3], [1, 0, 0, 0], [0, 0, 0, 1.0]])],
)
def test_a_click_finds_the_object_under_it_alone(affine: np.ndarray) -> None:
    image, organ = scene()
    mask = Session(image, affine).ask(point((14, 16, 13)))
    assert dice(mask == 1, organ) > 0.55


def test_scribble_box_lasso_and_mask_answer_too() -> None:
    image, organ = scene()
    middle = MaskBox((0, 0, 13), organ[:, :, 13:14])
    corners = np.array([[5.0, 8, 7], [23, 24, 19]])
    for prompt in (
        Prompt(PromptKind.SCRIBBLE, "organ", True, np.array([[9.0, 16, 13], [20, 16, 13]])),
        Prompt(PromptKind.BOX, "organ", True, corners),
        Prompt(PromptKind.LASSO, "organ", True, mask=middle),
        Prompt(PromptKind.MASK, "organ", True, mask=MaskBox((0, 0, 0), organ)),
    ):
        mask = Session(image).ask(prompt)
        assert dice(mask == 1, organ) > 0.55, prompt.kind


def test_nothing_lies_outside_a_box() -> None:
    image, _ = scene()
    mask = Session(image).ask(Prompt(PromptKind.BOX, "organ", True, np.array([[10.0, 10, 10], [16, 20, 16]])))
    inside = np.zeros_like(mask, bool)
    inside[10:17, 10:21, 10:17] = True
    assert mask.any()
    assert not mask[~inside].any()


def test_a_negative_click_takes_back_where_it_is_and_keeps_the_rest() -> None:
    image, organ = scene()
    session = Session(image)
    session.ask(point((14, 16, 13)), point((33, 19, 13)))
    assert session.mask[33, 19, 13] == 1
    kept = dice((session.mask == 1)[:24], organ[:24])
    session.ask(point((33, 19, 13), positive=False))
    assert session.mask[33, 19, 13] == 0
    assert dice((session.mask == 1)[:24], organ[:24]) > kept - 0.05


def test_a_click_and_a_lasso_together_do_not_leak() -> None:
    """A lasso along the edge must not teach that what lies beyond the edge is the object."""
    image, organ = scene()
    lasso = Prompt(PromptKind.LASSO, "organ", True, mask=MaskBox((0, 0, 13), organ[:, :, 13:14]))
    for prompts in ((point((14, 16, 13)), lasso), (lasso, point((14, 16, 13)))):
        session = Session(image)
        for prompt in prompts:
            session.ask(prompt)
        assert dice(session.mask == 1, organ) > 0.55
        assert dice(Session(image).ask(*prompts) == 1, organ) > 0.55


SQUARE = np.array([[11.0, 13, 13], [11, 19, 13], [17, 19, 13], [17, 13, 13]])
DRAWN = {
    PromptKind.POINT: np.array([[14.0, 16, 13]]),
    PromptKind.SCRIBBLE: np.array([[13.0, 16, 13], [14, 16, 13], [15, 16, 13]]),
    PromptKind.LASSO: SQUARE,
    PromptKind.BOX: SQUARE[[0, 2]],
}


@pytest.mark.parametrize("sign", [True, False])
@pytest.mark.parametrize("newer", list(DRAWN))
@pytest.mark.parametrize("older", list(DRAWN))
def test_the_newest_prompt_wins_where_prompts_meet(older: PromptKind, newer: PromptKind, sign: bool) -> None:
    """At its own middle, whatever was drawn there before with the other sign; a rough one wins over rough ones only."""
    image, _ = scene()
    session = Session(image)
    session.ask(point((20, 16, 13)))
    session.ask(Prompt(older, "organ", not sign, DRAWN[older]))
    mask = session.ask(Prompt(newer, "organ", sign, DRAWN[newer]))
    overruled = sign and newer in ROUGH and older in EXACT
    assert (mask[14, 16, 13] == 1) == (sign != overruled)


@pytest.mark.parametrize("newer", [PromptKind.POINT, PromptKind.SCRIBBLE, PromptKind.LASSO])
@pytest.mark.parametrize("older", list(DRAWN))
def test_another_label_takes_what_is_drawn_for_it(older: PromptKind, newer: PromptKind) -> None:
    image, _ = scene()
    session = Session(image)
    session.ask(Prompt(older, "organ", True, DRAWN[older]))
    mask = session.ask(Prompt(newer, "other", True, DRAWN[newer]))
    overruled = newer in ROUGH and older in EXACT
    assert mask[14, 16, 13] == (1 if overruled else 2)


def test_two_labels_in_one_question_do_not_overlap() -> None:
    image, organ = scene()
    mask = Session(image).ask(point((14, 16, 13)), point((33, 19, 13), label="other"))
    assert mask[14, 16, 13] == 1
    assert mask[33, 19, 13] == 2
    assert dice(mask == 1, organ) > 0.55


def test_a_picture_is_answered_in_two_dimensions() -> None:
    image, organ = scene((40, 36, 1))
    mask = Session(image).ask(point((14, 16, 0)))
    assert dice(mask == 1, organ) > 0.55


def test_colour_is_read_as_brightness() -> None:
    image, organ = scene((40, 36, 1))
    colour = np.repeat(np.clip(image, 0, 255).astype(np.uint8)[..., None], 3, axis=3)
    assert dice(Session(colour).ask(point((14, 16, 0))) == 1, organ) > 0.55


def test_an_object_larger_than_the_window_is_found_from_farther_away() -> None:
    shape = (90, 80, 70)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    organ = (((grid - [45, 40, 35]) / [36, 30, 26]) ** 2).sum(-1) < 1
    image = (np.where(organ, 100, 0) + np.random.default_rng(1).normal(0, 8, shape)).astype(np.int16)
    session = Session(image, task=Seeds(LABELS, roi=32))
    user = SimulatedUser()
    for _ in range(3):
        prompt = user.next_prompt(session.mask == 1, organ, "organ")
        assert prompt is not None
        session.ask(prompt)
    assert dice(session.mask == 1, organ) > 0.85


def test_the_same_session_gives_the_same_mask() -> None:
    image, _ = scene()
    first, second = (Session(image).ask(point((14, 16, 13)), point((22, 16, 13))) for _ in range(2))
    assert np.array_equal(first, second)


def test_an_edge_weight_that_makes_no_sense_is_refused() -> None:
    task = Seeds(LABELS)
    with pytest.raises(InvalidParams, match="edge_weight"):
        task.engine(None, {"edge_weight": "much"})
