"""Interactive sessions through real worker processes that die, hang and forget."""

import asyncio
import contextlib
import os
import signal

import numpy as np
import pytest

from labelserver.domain.errors import RequestCancelled, SessionNotHeld, TaskFailed, WorkerDied
from labelserver.domain.ids import ImageId
from labelserver.domain.infer import InferRequest
from labelserver.domain.interaction import SessionCall, SessionVerb
from labelserver.domain.prompts import MaskBox, Prompt, PromptKind
from labelserver.engine import supervision
from labelserver.imaging.volumes import read_volume, write_volume
from labelserver.interaction.service import Interactions
from tests.fakes.ball_task import RADIUS
from tests.fakes.fake_engine import described
from tests.fakes.fake_sessions import masks_of
from tests.support.local_engine import Place, until

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SHAPE = (24, 20, 16)
CT = ImageId("ct")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    write_volume(place.roots.studies / "ct.nii", np.ones(SHAPE, np.int16), np.eye(4), compress=False)
    return place


def point(i, j, k, label="", *, positive=True):
    return Prompt(PromptKind.POINT, label, positive, np.array([[i, j, k]], dtype=float))


def call(verb, at=0, session="s", **fields):
    return SessionCall(session, verb, "ball", "ann", image_id=CT, at=at, **fields)


def order(place, what):
    (place.roots.studies / "order").write_text(what)


class _Store:
    def __init__(self, place):
        self._place = place

    def get_image_uri(self, image_id):
        return str(self._place.roots.studies / f"{image_id}.nii")


class _Described:
    """The engine, with an app that describes the ball task."""

    def __init__(self, engine):
        self._engine = engine
        self.interact = engine.interact
        self.readiness = engine.readiness

    def description(self):
        ball = {
            "prompt_kinds": ["point", "scribble", "box"],
            "dimensions": [3],
            "label_values": {"ball": 1, "other": 4},
        }
        return described({"models": {"ball": {"interactive": ball}}})


def service_of(engine, place):
    return Interactions(_Described(engine), lambda: _Store(place), place.roots, keep_days=1)


async def test_a_coarse_answer_comes_before_the_final_one_and_the_final_one_covers_it(place):
    async with place.running() as engine:
        await engine.interact(call(SessionVerb.OPEN))
        partials = []
        answer = await engine.interact(call(SessionVerb.PROMPT, prompts=(point(10, 9, 8),)), partials.append)
        assert [p.final for p in partials] == [False]
        assert partials[0].change.values.all(), "the cube"
        final = masks_of([answer], SHAPE)
        assert (masks_of([*partials, answer], SHAPE) == final).all()
        assert final[10 + RADIUS, 9, 8] == 1
        assert final[10 + RADIUS, 9 + RADIUS, 8] == 0
        assert answer.notes == {"new": 1}
        assert answer.model_version == "3"
        assert {"queue", "load", "pre", "forward", "post"} <= answer.seconds.keys()


async def test_the_image_is_read_and_prepared_once_for_several_sessions_and_clicks(place):
    async with place.running() as engine:
        for session in ("s", "t"):
            await engine.interact(call(SessionVerb.OPEN, session=session))
            for at in range(3):
                prompts = (point(5 + at, 9, 8),)
                await engine.interact(call(SessionVerb.PROMPT, at, session, prompts=prompts))
        assert place.notes().count("prepare") == 1


async def test_a_prefetched_image_is_ready_when_it_is_opened(place):
    async with place.running() as engine:
        await engine.interact(call(SessionVerb.PREFETCH, session=""))
        assert place.notes().count("prepare") == 1
        await engine.interact(call(SessionVerb.OPEN))
        assert place.notes().count("prepare") == 1


async def test_a_worker_that_does_not_hold_the_session_as_it_is_says_so(place):
    async with place.running() as engine:
        with pytest.raises(SessionNotHeld):
            await engine.interact(call(SessionVerb.PROMPT, prompts=(point(1, 1, 1),)))
        await engine.interact(call(SessionVerb.OPEN))
        with pytest.raises(SessionNotHeld):
            await engine.interact(call(SessionVerb.PROMPT, 7, prompts=(point(1, 1, 1),)))


async def test_a_click_passes_an_inference_that_runs(place):
    async with place.running() as engine:
        await engine.interact(call(SessionVerb.OPEN))
        held = asyncio.ensure_future(
            engine.infer(InferRequest("segmentation", image_id=CT, params={"do": "meet", "name": "x"}))
        )
        await place.at("x")
        answer = await engine.interact(call(SessionVerb.PROMPT, prompts=(point(10, 9, 8),)))
        assert answer.ran
        assert not held.done()
        place.let_pass("x")
        await held


async def test_a_caller_who_leaves_cancels_the_click_and_nothing_is_changed(place):
    async with place.running() as engine:
        await engine.interact(call(SessionVerb.OPEN))
        order(place, "meet")
        left = asyncio.ensure_future(engine.interact(call(SessionVerb.PROMPT, prompts=(point(10, 9, 8),))))
        await until("the click runs", (place.roots.studies / "at-order").exists)
        left.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await left
        answer = await engine.interact(call(SessionVerb.PROMPT, 0, prompts=(point(3, 3, 3),)))
        assert answer.ran, "the session is still where the server thinks it is"
        assert not masks_of([answer], SHAPE)[10, 9, 8]


async def test_a_task_that_raises_changes_nothing(place):
    async with place.running() as engine:
        await engine.interact(call(SessionVerb.OPEN))
        order(place, "raise")
        seed = Prompt(PromptKind.MASK, mask=MaskBox((0, 0, 0), np.ones((2, 2, 2), bool)))
        with pytest.raises(TaskFailed, match="The model ball failed with RuntimeError: the ball is flat"):
            await engine.interact(call(SessionVerb.PROMPT, prompts=(seed, point(10, 9, 8))))
        written = await engine.interact(call(SessionVerb.WRITE))
        assert not read_volume(place.roots.resolve(written.file)).voxels.any()


async def test_a_hung_click_costs_its_worker_and_one_error_and_others_are_served_by_the_next(place, monkeypatch):
    monkeypatch.setattr(supervision, "CANCEL_GRACE_S", 0.2)
    place.settings["click_timeout"] = 1
    async with place.running() as engine:
        service = service_of(engine, place)
        (old,) = engine.worker_pids
        hung = (await service.open("ann", "ball", image_id=CT)).session_id
        other = (await service.open("bob", "ball", image_id=CT)).session_id
        await service.prompt(other, "bob", [point(4, 4, 4)])
        innocent = asyncio.ensure_future(
            engine.infer(InferRequest("segmentation", image_id=CT, params={"do": "meet", "name": "x"}))
        )
        await place.at("x")
        order(place, "hang")
        stuck = asyncio.ensure_future(service.prompt(hung, "ann", [point(10, 9, 8)]))
        await until("the click hangs", (place.roots.studies / "at-order").exists)
        waiting = asyncio.ensure_future(service.prompt(other, "bob", [point(10, 9, 8)]))
        with pytest.raises(TaskFailed, match="longer than 1 s"):
            await stuck
        answer = await waiting
        assert answer.ran
        assert engine.worker_pids != [old]
        place.let_pass("x")
        assert (await innocent).params["pid"] != old, "an inference beside it is made again"
        mask = await service.mask_file(other, "bob")
        assert read_volume(mask).voxels[4, 4, 4] == 1, "what was drawn before is there"
        assert (await service.prompt(hung, "ann", [point(2, 2, 2)])).ran


async def test_a_session_survives_the_death_of_its_worker_mid_click(place):
    async with place.running() as engine:
        service = service_of(engine, place)
        sid = (await service.open("ann", "ball", image_id=CT)).session_id
        await service.prompt(sid, "ann", [point(5, 5, 5)])
        await service.prompt(sid, "ann", [point(15, 12, 8, "other")])
        before = read_volume(await service.mask_file(sid, "ann")).voxels
        assert set(np.unique(before)) == {0, 1, 4}
        order(place, "meet")
        click = asyncio.ensure_future(service.prompt(sid, "ann", [point(10, 9, 8)]))
        await until("the click runs", (place.roots.studies / "at-order").exists)
        os.kill(engine.worker_pids[0], signal.SIGKILL)
        with pytest.raises(WorkerDied, match="send the request again"):
            await click
        after = read_volume(await service.mask_file(sid, "ann")).voxels
        assert (after == before).all()
        undone = await service.undo(sid, "ann")
        assert undone.ran
        mask = read_volume(await service.mask_file(sid, "ann")).voxels
        assert set(np.unique(mask)) == {0, 1}
        assert place.notes().count("prepare") == 2, "rebuilding runs no prediction, it prepares the image once more"


async def test_replaying_the_prompts_gives_the_same_mask(place):
    async with place.running() as engine:
        service = service_of(engine, place)
        clicks = [point(5, 5, 5), point(15, 12, 8, "other"), point(6, 5, 5, positive=False), point(9, 9, 9)]
        masks = []
        for _ in range(2):
            sid = (await service.open("ann", "ball", image_id=CT)).session_id
            for prompt in clicks:
                await service.prompt(sid, "ann", [prompt])
            masks.append(read_volume(await service.mask_file(sid, "ann")).voxels)
        assert (masks[0] == masks[1]).all()
        assert masks[0].any()


async def test_prompts_that_wait_are_seen_by_the_next_prediction(place):
    async with place.running() as engine:
        service = service_of(engine, place)
        sid = (await service.open("ann", "ball", image_id=CT)).session_id
        assert not (await service.prompt(sid, "ann", [point(5, 5, 5)], predict=False)).ran
        answer = await service.prompt(sid, "ann", [point(9, 9, 9)])
        assert answer.notes == {"new": 2}


async def test_an_image_that_cannot_be_prepared_leaves_no_session(place):
    async with place.running() as engine:
        service = service_of(engine, place)
        (place.roots.studies / "unpreparable").touch()
        with pytest.raises(TaskFailed, match="no ball fits"):
            await service.open("ann", "ball", image_id=CT)
        assert not list((place.roots.state / "sessions").glob("*"))


async def test_a_cancelled_request_is_told_so(place):
    async with place.running() as engine:
        await engine.interact(call(SessionVerb.OPEN))
        order(place, "meet")
        ticket = engine._scheduler.submit(call(SessionVerb.PROMPT, prompts=(point(10, 9, 8),)))
        await until("the click runs", (place.roots.studies / "at-order").exists)
        ticket.cancelled.set()
        with pytest.raises(RequestCancelled):
            await ticket.answer
