"""What every engine promises about interactive sessions, asked of workers and of the stand-in alike."""

import numpy as np
import pytest

from labelserver.domain.errors import SessionNotHeld
from labelserver.domain.ids import ImageId
from labelserver.domain.interaction import SessionCall, SessionVerb, Step
from labelserver.domain.prompts import Prompt, PromptKind
from labelserver.imaging.volumes import read_volume, write_volume
from labelserver.wire.packed_session import pack_change
from tests.fakes.fake_engine import FakeEngine
from tests.fakes.fake_sessions import masks_of
from tests.support.local_engine import Place

pytestmark = pytest.mark.anyio
SHAPE = (20, 18, 16)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["fake", pytest.param("workers", marks=pytest.mark.slow)])
async def engine(request, tmp_path):
    place = Place(tmp_path)
    for name in ("ct.nii", "ct.nii.gz"):  # the stand-in and the fake app name their files differently
        write_volume(place.roots.studies / name, np.zeros(SHAPE, np.int16), np.eye(4), compress=False)
    (place.roots.state / "spool").mkdir(exist_ok=True)
    if request.param == "fake":
        fake = FakeEngine(place.roots)
        fake.sessions.partials = True
        yield fake
        return
    async with place.running() as running:
        yield running


def call(verb, at=0, session="s", **fields):
    return SessionCall(session, verb, "ball", "ann", image_id=ImageId("ct"), at=at, **fields)


def point(i, j, k):
    return Prompt(PromptKind.POINT, points=np.array([[i, j, k]], float))


async def whole(engine, at, session="s"):
    answer = await engine.interact(call(SessionVerb.WRITE, at, session))
    path = engine._roots.resolve(answer.file) if hasattr(engine, "_roots") else engine.roots.resolve(answer.file)
    return read_volume(path).voxels


async def test_answers_add_up_to_the_mask(engine):
    await engine.interact(call(SessionVerb.OPEN))
    answers = [await engine.interact(call(SessionVerb.PROMPT, at, prompts=(point(5 + at, 5, 5),))) for at in range(3)]
    answers.append(await engine.interact(call(SessionVerb.UNDO, 3)))
    assert (masks_of(answers, SHAPE) == await whole(engine, 4)).all()
    answers.append(await engine.interact(call(SessionVerb.REDO, 4)))
    assert (masks_of(answers, SHAPE) == masks_of(answers[:3], SHAPE)).all()
    answers.append(await engine.interact(call(SessionVerb.RESET, 5)))
    assert not masks_of(answers, SHAPE).any()
    answers.append(await engine.interact(call(SessionVerb.UNDO, 6)))
    assert (masks_of(answers, SHAPE) == await whole(engine, 7)).all()


async def test_a_coarse_answer_changes_nothing(engine):
    await engine.interact(call(SessionVerb.OPEN))
    coarse = []
    answer = await engine.interact(call(SessionVerb.PROMPT, prompts=(point(5, 5, 5),)), coarse.append)
    assert [a.final for a in coarse] == [False]
    assert answer.final
    assert (masks_of([*coarse, answer], SHAPE) == await whole(engine, 1)).all()


async def test_a_session_is_held_only_in_the_state_that_the_server_knows(engine):
    with pytest.raises(SessionNotHeld):
        await engine.interact(call(SessionVerb.PROMPT, prompts=(point(5, 5, 5),)))
    await engine.interact(call(SessionVerb.OPEN))
    await engine.interact(call(SessionVerb.PROMPT, prompts=(point(5, 5, 5),)))
    with pytest.raises(SessionNotHeld):
        await engine.interact(call(SessionVerb.UNDO, 5))
    await engine.interact(call(SessionVerb.OPEN, session="t"))
    await engine.interact(call(SessionVerb.CLOSE, session="t"))
    with pytest.raises(SessionNotHeld):
        await engine.interact(call(SessionVerb.PROMPT, session="t", prompts=(point(5, 5, 5),)))


async def test_a_session_is_rebuilt_from_its_history(engine):
    await engine.interact(call(SessionVerb.OPEN))
    answers = [await engine.interact(call(SessionVerb.PROMPT, at, prompts=(point(5 + at, 5, 5),))) for at in range(3)]
    mask = await whole(engine, 3)
    steps = [Step((point(5, 5, 5),), a.change, packed=a.packed or pack_change(a.change, SHAPE)) for a in answers]
    opened = call(SessionVerb.OPEN, 9, "again", history=tuple(steps[:2]), undone=tuple(steps[2:]))
    await engine.interact(opened)
    redone = await engine.interact(call(SessionVerb.REDO, 9, "again"))
    assert redone.ran
    assert (await whole(engine, 10, "again") == mask).all()
