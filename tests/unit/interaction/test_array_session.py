"""What a client's copy of the mask needs to hear, whatever happened to earlier answers."""

import asyncio

import numpy as np
import pytest

from labelserver.domain.errors import InvalidPrompt, SessionNotFound, StoredDataInvalid, TaskFailed, TaskNotFound
from labelserver.domain.prompts import MaskBox, Prompt, PromptKind
from labelserver.interaction import array_session
from labelserver.interaction.array_session import ArraySession, mount_of
from labelserver.interaction.described import described_task
from labelserver.wire.mask_box import Box
from tests.support.ball_app import ball
from tests.unit.interaction.test_leases import SHAPE, House, point

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def session(tmp_path):
    house = House(tmp_path)
    session = (await house.opened()).session
    session.house = house
    return session


class Copy:
    """What a client has."""

    def __init__(self):
        self.mask = np.zeros(SHAPE, np.uint8)

    def take(self, session, answer, *, lost=False):
        if lost:
            return
        if answer.box is not None:
            self.mask[answer.box.slices] = session.mask[answer.box.slices]
        session.delivered(answer)


def seed_of(*spans):
    lo = tuple(a for a, _ in spans)
    return MaskBox(lo, np.ones([b - a for a, b in spans], bool))


async def test_the_answer_is_the_smallest_box_that_changed(session):
    copy = Copy()
    first = await session.add(point(4, 7, 5), predict=True)
    assert first.box == Box((2, 5, 3), (7, 10, 8))
    copy.take(session, first)
    second = await session.add(point(4, 7, 6), predict=True)
    expected = np.argwhere(ball(SHAPE, (4, 7, 6)) & ~ball(SHAPE, (4, 7, 5)).astype(bool))
    assert second.box == Box(tuple(expected.min(0)), tuple(expected.max(0) + 1))
    again = await session.add(point(4, 7, 6), predict=True)
    copy.take(session, second)
    assert again.ran


async def test_nothing_new_is_no_box(session):
    session.delivered(await session.add(point(4, 7, 5), predict=True))
    answer = await session.add(point(4, 7, 5), predict=True)
    assert (answer.ran, answer.box) == (True, None)


async def test_a_lost_answer_is_made_up_for_by_the_next(session):
    copy = Copy()
    copy.take(session, await session.add(point(2, 3, 3), predict=True), lost=True)
    copy.take(session, await session.add(point(6, 10, 8), predict=True))
    np.testing.assert_array_equal(copy.mask, session.mask)
    np.testing.assert_array_equal(copy.mask, ball(SHAPE, (2, 3, 3)) | ball(SHAPE, (6, 10, 8)))


async def test_a_call_that_was_cancelled_is_looked_into(session):
    """Cancelled when the worker had done it: the mask changed, and nobody was told."""
    copy = Copy()
    engine = session.house.engine
    answered = engine.interact

    async def cancelled(call, on_partial=None):
        await answered(call, on_partial)
        raise asyncio.CancelledError

    engine.interact = cancelled
    with pytest.raises(asyncio.CancelledError):
        await session.add(point(2, 3, 3), predict=True)
    engine.interact = answered
    await session.agree()
    copy.take(session, await session.add(point(6, 10, 8), predict=True))
    np.testing.assert_array_equal(copy.mask, session.mask)
    expected = await session._current()
    np.testing.assert_array_equal(copy.mask, expected)


async def test_undo_has_many_levels_and_stops_at_the_initial_mask(session):
    copy = Copy()
    seed = seed_of((1, 3), (1, 3), (1, 3))
    assert (await session.seed(seed, predict=False)).box is None
    copy.mask[1:3, 1:3, 1:3] = 1  # as the client does by itself
    start = copy.mask.copy()
    for place in ((4, 7, 5), (6, 10, 8), (2, 3, 3)):
        copy.take(session, await session.add(point(*place), predict=True))
    for _ in range(3):
        answer = await session.undo()
        assert answer.ran
        copy.take(session, answer)
    np.testing.assert_array_equal(copy.mask, start)
    assert not (await session.undo()).ran


async def test_prompts_wait_until_something_predicts(session):
    assert not (await session.add(point(2, 3, 3), predict=False)).ran
    assert not (await session.add(point(6, 10, 8), predict=False)).ran
    assert not session.mask.any()
    answer = await session.predict()
    assert answer.ran
    np.testing.assert_array_equal(session.mask, ball(SHAPE, (2, 3, 3)) | ball(SHAPE, (6, 10, 8)))
    assert not (await session.predict()).ran


async def test_not_all_the_world_can_wait(session, monkeypatch):
    monkeypatch.setattr(array_session, "MAX_WAITING", 2)
    for _ in range(2):
        await session.add(point(2, 3, 3), predict=False)
    with pytest.raises(InvalidPrompt, match="waiting"):
        await session.add(point(2, 3, 3), predict=False)


async def test_a_prompt_that_waits_is_undone_first(session):
    session.delivered(await session.add(point(2, 3, 3), predict=True))
    await session.add(point(6, 10, 8), predict=False)
    answer = await session.undo()
    assert (answer.ran, answer.box) == (True, None)
    assert not (await session.predict()).ran
    np.testing.assert_array_equal(session.mask, ball(SHAPE, (2, 3, 3)))


async def test_an_initial_mask_forgets_what_was_before(session):
    session.delivered(await session.add(point(2, 3, 3), predict=True))
    await session.seed(seed_of((6, 8), (6, 8), (6, 8)), predict=False)
    expected = np.zeros(SHAPE, np.uint8)
    expected[6:8, 6:8, 6:8] = 1
    np.testing.assert_array_equal(session.mask, expected)
    np.testing.assert_array_equal(await session._current(), expected)
    assert not (await session.undo()).ran


async def test_an_initial_mask_that_was_not_taken_over_is_taken_back(session):
    """The client has written it into its copy already."""
    copy = Copy()
    copy.mask[6:8, 6:8, 6:8] = 1
    engine = session.house.engine
    answered = engine.interact

    async def failing(call, on_partial=None):
        if call.prompts:
            raise TaskFailed("Not today.")
        return await answered(call, on_partial)

    engine.interact = failing
    with pytest.raises(TaskFailed):
        await session.seed(seed_of((6, 8), (6, 8), (6, 8)), predict=False)
    engine.interact = answered
    copy.take(session, await session.add(point(2, 3, 3), predict=True))
    np.testing.assert_array_equal(copy.mask, ball(SHAPE, (2, 3, 3)))


async def test_an_empty_initial_mask_is_a_reset(session):
    await session.add(point(2, 3, 3), predict=True)
    empty = MaskBox((0, 0, 0), np.zeros((1, 1, 1), bool))
    assert not (await session.seed(empty, predict=True)).ran
    assert not session.mask.any()
    assert not (await session.undo()).ran


async def test_a_new_copy_of_the_client_hears_of_the_whole_mask(session):
    session.delivered(await session.add(point(2, 3, 3), predict=True))
    session.emptied_copy()
    copy = Copy()
    copy.take(session, await session.add(point(6, 10, 8), predict=True))
    np.testing.assert_array_equal(copy.mask, session.mask)


async def test_a_refused_prompt_changes_nothing(session):
    session.delivered(await session.add(point(2, 3, 3), predict=True))
    before = session.mask.copy()
    nowhere = Prompt(PromptKind.SCRIBBLE, "liver", mask=MaskBox((0, 0, 0), np.zeros((1, 1, 1), bool)))
    for prompt in (point(99, 0, 0), nowhere, Prompt(PromptKind.CLASS, "liver")):
        for predict in (True, False):
            with pytest.raises(InvalidPrompt):
                await session.add(prompt, predict=predict)
    with pytest.raises(InvalidPrompt):
        await session.seed(MaskBox((8, 0, 0), np.ones((2, 1, 1), bool)), predict=False)
    np.testing.assert_array_equal(session.mask, before)
    assert (await session.undo()).ran


async def test_other_labels_are_not_the_clients(tmp_path):
    house = House(tmp_path)
    task = described_task(house.engine.description(), "ball")
    assert mount_of(task, None).label == "liver"  # the lowest value, whatever the order
    assert mount_of(task, "spleen").value == 2
    with pytest.raises(TaskNotFound, match="liver, spleen"):
        mount_of(task, "kidney")
    session = (await house.opened()).session
    house.engine.sessions.label_value = 2
    answer = await session.add(point(2, 3, 3), predict=True)
    assert answer.box is None
    assert not session.mask.any()


async def test_a_session_that_was_closed_is_not_found(session):
    await session.close()
    with pytest.raises(SessionNotFound):
        await session.add(point(2, 3, 3), predict=True)


@pytest.mark.parametrize(
    "document", [{}, {"session": "x", "person": "y"}, {"session": "x", "person": "y", "base": "z"}]
)
async def test_a_damaged_record_of_a_session_is_said_to_be_one(session, document):
    with pytest.raises(StoredDataInvalid):
        await ArraySession.woken(session.house.sessions, session.mount, document)
