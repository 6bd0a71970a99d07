"""A session's mask in memory: steps forward and back, drafts that fail, replay of a log."""

import numpy as np
import pytest

from labelserver.domain.geometry import Grid
from labelserver.domain.interaction import NOTHING_CHANGED, MaskChange, Step
from labelserver.domain.prompts import Prompt, PromptKind
from labelserver.wire.packed_session import pack_change, unpack_change
from labelserver.worker.held_session import HeldSession

SHAPE = (10, 9, 8)
POINT = Prompt(PromptKind.POINT, points=np.array([[1.0, 2, 3]]))


@pytest.fixture
def held():
    return HeldSession("task", "path", Grid(SHAPE, np.eye(4)), 0)


def ones(*shape, value=1):
    return np.full(shape, value, np.uint8)


def step(held, lo, values, prompts=(POINT,), *, predicted=True):
    with held.changing() as draft:
        draft.write(lo, values)
        return held.commit(draft, prompts, predicted=predicted)


def pasted(mask, packed):
    change = unpack_change(packed)
    mask[tuple(slice(a, b) for a, b in zip(change.lo, change.hi, strict=True))] = change.values


def test_a_step_tells_the_smallest_box_that_changed(held):
    step(held, (2, 2, 2), ones(3, 3, 3))
    change = unpack_change(step(held, (2, 2, 2), ones(4, 3, 3)))
    assert (change.lo, change.values.shape) == ((5, 2, 2), (1, 3, 3))
    assert step(held, (2, 2, 2), ones(4, 3, 3)) == b"", "nothing changed"


def test_any_walk_through_undo_and_redo_gives_the_client_the_same_mask(held):
    rng = np.random.default_rng(1)
    client, masks = np.zeros(SHAPE, np.uint8), [np.zeros(SHAPE, np.uint8)]
    place = 0
    for done in range(200):
        what = rng.integers(0, 3)
        if what == 0 and held.can_undo:
            pasted(client, held.undo())
            place -= 1
        elif what == 1 and held.can_redo:
            pasted(client, held.redo())
            place += 1
        else:
            lo = tuple(int(v) for v in rng.integers(0, 5, 3))
            values = rng.integers(0, 3, rng.integers(1, 4, 3)).astype(np.uint8)
            pasted(client, step(held, lo, values))
            place += 1
            masks = [*masks[:place], held.mask.copy()]
        assert (held.mask == masks[place]).all()
        assert (client == held.mask).all()
        assert held.at == done + 1


def test_a_draft_that_fails_leaves_everything_as_it_was(held):
    step(held, (1, 1, 1), ones(2, 2, 2))
    before = held.mask.copy()

    def fail():
        with held.changing() as draft:
            draft.write((0, 0, 0), ones(5, 5, 5))
            draft.write((1, 1, 1), ones(5, 5, 5, value=3))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (held.mask == before).all()
    assert (held.at, held.can_redo) == (1, False)


def test_the_final_box_covers_what_a_coarse_answer_showed(held):
    with held.changing() as draft:
        shown = draft.show((1, 1, 1), ones(5, 5, 5))
        assert shown.values.shape == (5, 5, 5)
        assert not held.mask.any()
        draft.write((2, 2, 2), ones(1, 1, 1))
        change = unpack_change(held.commit(draft, (), predicted=True))
    assert (change.lo, change.values.shape, change.values.sum()) == ((1, 1, 1), (5, 5, 5), 1)


def test_prompts_in_force_and_those_that_wait(held):
    step(held, (0, 0, 0), ones(1, 1, 1))
    step(held, (0, 0, 0), ones(1, 1, 1), predicted=False)
    step(held, (0, 0, 0), ones(1, 1, 1), (POINT, POINT), predicted=False)
    assert (len(held.prompts), held.waiting) == (4, 3)
    held.undo()
    assert (len(held.prompts), held.waiting) == (2, 1)
    held.clear(forget=False)
    assert (len(held.prompts), held.waiting) == (0, 0)
    held.undo()
    assert len(held.prompts) == 2


def test_a_clearing_can_be_undone_unless_it_forgets(held):
    step(held, (3, 3, 3), ones(2, 2, 2, value=7))
    assert not unpack_change(held.clear(forget=False)).values.any()
    assert not held.mask.any()
    held.undo()
    assert held.mask.sum() == 56
    held.clear(forget=True)
    assert (held.can_undo, held.can_redo) == (False, False)


def test_replay_comes_to_the_same_state_and_redo_still_works(held):
    packed = [step(held, (n, n, n), ones(3, 3, 3, value=n + 1)) for n in range(4)]
    masks = held.mask.copy()
    again = HeldSession("task", "path", held.grid, 7)
    steps = [Step((POINT,), unpack_change(p), packed=p) for p in packed]
    again.replay(steps[:2], steps[2:])
    assert not again.mask[5, 5, 5]
    again.redo()
    again.redo()
    assert (again.mask == masks).all()
    for _ in range(4):
        again.undo()
    assert not again.mask.any()


def test_replay_of_steps_that_were_never_packed(held):
    held.replay([Step((), MaskChange((1, 1, 1), ones(2, 2, 2))), Step((POINT,), NOTHING_CHANGED, predicted=False)], [])
    assert held.mask.sum() == 8
    assert held.waiting == 1


def test_the_memory_it_takes_is_told(held):
    empty = held.nbytes
    step(held, (0, 0, 0), np.random.default_rng(0).integers(0, 9, (8, 8, 8)).astype(np.uint8))
    assert held.nbytes > empty >= np.prod(SHAPE)


def test_packing_and_unpacking_a_change():
    change = MaskChange((1, 2, 3), ones(2, 3, 1, value=200))
    again = unpack_change(pack_change(change, SHAPE))
    assert again.lo == change.lo
    assert (again.values == change.values).all()
    assert unpack_change(pack_change(NOTHING_CHANGED, SHAPE)).empty
