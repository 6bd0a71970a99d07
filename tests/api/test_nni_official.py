"""nnInteractive's official protocol, spoken by its own unmodified client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import numpy as np
import pytest
from nnInteractive.inference.remote.remote_session import (
    ServerAtCapacityError,
    SessionExpiredError,
    nnInteractiveRemoteInferenceSession,
)

from labelserver.api import nni_official
from labelserver.domain.errors import (
    DeviceMemoryFull,
    LabelServerError,
    QueueFull,
    SessionNotFound,
    TaskFailed,
    WorkerDied,
    WorkerNotReady,
)
from labelserver.domain.interaction import SessionAnswer, SessionCall, SessionVerb
from labelserver.imaging.volumes import read_volume
from labelserver.wire import nnia
from tests.api.conftest import Make, World
from tests.support.ball_app import ball, ball_app
from tests.support.served import Served

SHAPE = (9, 14, 11)
Client = Callable[..., nnInteractiveRemoteInferenceSession]


class Nni:
    """A world behind a port, and clients of it."""

    def __init__(self, world: World, url: str, stack: ExitStack) -> None:
        self.world = world
        self.url = url
        self._stack = stack

    def client(self, mount: str = "ball", **options: object) -> nnInteractiveRemoteInferenceSession:
        return self._stack.enter_context(nnInteractiveRemoteInferenceSession(f"{self.url}/nni/{mount}", **options))

    def refused(self, error: type[Exception], match: str, **options: object) -> None:
        """A client whose constructor fails; it leaves its connection open, which a test must not."""
        with pytest.raises(error, match=match) as caught:
            self.client(**options)
        for entry in caught.traceback:
            made = entry.locals.get("self")
            if isinstance(made, nnInteractiveRemoteInferenceSession):
                made._http.close()

    def with_image(
        self, mount: str = "ball", shape: tuple[int, int, int] = SHAPE
    ) -> nnInteractiveRemoteInferenceSession:
        client = self.client(mount)
        client.set_image(np.zeros((1, *shape), np.int16), {"spacing": [3.0, 1.5, 0.5]})
        client.set_target_buffer(np.zeros(shape, np.uint8))
        return client


MakeNni = Callable[..., Nni]


@pytest.fixture
def make_nni(make_world: Make) -> Iterator[MakeNni]:
    with ExitStack() as stack:

        def make(**settings: object) -> Nni:
            world = make_world(ball_app(), **settings)
            served = stack.enter_context(Served(world.http._app, world.http.portal))
            return Nni(world, served.url, stack)

        yield make


@pytest.fixture
def nni(make_nni: MakeNni) -> Nni:
    return make_nni()


def test_ni01_a_client_draws_with_nothing_but_the_address_changed(nni: Nni) -> None:
    client = nni.with_image()
    client.add_point_interaction((4, 7, 5), True)
    np.testing.assert_array_equal(client.target_buffer, ball(SHAPE, (4, 7, 5)))
    assert client._last_paste_bbox == [[2, 7], [5, 10], [3, 8]]


def test_ni01_the_whole_call_list_with_the_buffer_checked_after_each(nni: Nni) -> None:
    client = nni.client()
    assert client.ping()
    client.set_do_autozoom(False)
    assert client.do_autozoom is False
    client.set_image(np.zeros((1, *SHAPE), np.float32), {})
    assert client.original_image_shape == (1, *SHAPE)
    client.set_target_buffer(np.zeros(SHAPE, bool))
    client.reset_interactions()
    seed = np.zeros(SHAPE, np.uint8)
    seed[0:2, 0:2, 0:2] = 1
    client.add_initial_seg_interaction(seed)
    assert client.target_buffer.sum() == 8
    client.add_point_interaction((4.4, 7.2, 4.6), True)
    expected = ball(SHAPE, (4, 7, 5)) | seed
    np.testing.assert_array_equal(client.target_buffer, expected)
    client.add_bbox_interaction([[6, 9], [3, 4], [2, 5]], True)
    expected |= ball(SHAPE, (6, 3, 2)) | ball(SHAPE, (8, 3, 4))
    np.testing.assert_array_equal(client.target_buffer, expected)
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[1, 12, 3:9] = 1
    client.add_scribble_interaction(drawn, True)
    np.testing.assert_array_equal(client.target_buffer, expected | drawn)
    patch = np.ones((1, 2, 3), np.uint8)
    client.add_lasso_interaction(patch, False, interaction_bbox=[[1, 2], [11, 13], [3, 6]])
    erased = drawn.copy()
    erased[1, 12, 3:6] = 0
    np.testing.assert_array_equal(client.target_buffer, expected | erased)
    assert client.undo()
    np.testing.assert_array_equal(client.target_buffer, expected | drawn)
    assert client.heartbeat() > 3000
    status = client.lease_status()
    assert status["idle_timeout_seconds"] == 3600
    assert 3000 < status["remaining_seconds"] <= 3600
    client.reset_interactions()
    assert client.target_buffer.sum() == 0


def test_ni01_several_mounts_of_one_task_draw_their_own_label(nni: Nni) -> None:
    nni.world.engine.sessions.label_value = 2
    liver, spleen = nni.with_image("ball"), nni.with_image("ball/spleen")
    for client in (liver, spleen):
        client.add_point_interaction((4, 7, 5), True)
    assert liver.target_buffer.sum() == 0
    np.testing.assert_array_equal(spleen.target_buffer, ball(SHAPE, (4, 7, 5)))


def test_ni03_an_unknown_mount_is_404_on_every_route(nni: Nni) -> None:
    headers = {"X-Lease-Token": "0" * 32}
    routes = [("GET", "/healthz"), ("GET", "/capabilities"), ("GET", "/lease_status")]
    routes += [("POST", f"/{name}") for name in ("claim", "release", "heartbeat", "set_image", "set_target_buffer")]
    routes += [("POST", f"/{name}") for name in ("set_do_autozoom", "reset_interactions", "undo", "predict")]
    routes += [("POST", f"/add_{name}_interaction") for name in ("point", "bbox", "scribble", "lasso", "initial_seg")]
    for mount in ("nothing", "plain", "ball/kidney", "ball/liver/claim"):
        for method, path in routes:
            answer = nni.world.http.request(method, f"/nni/{mount}{path}", headers=headers)
            assert answer.status_code == 404, answer.text
            assert isinstance(answer.json()["detail"], str)


def test_ni04_tasks_that_take_no_prompts_are_not_mounted(nni: Nni) -> None:
    answer = nni.world.http.post("/nni/plain/claim")
    assert answer.status_code == 404
    assert "takes no prompts" in answer.json()["detail"]
    assert "ball, points" in answer.json()["detail"]


def test_ni04_capabilities_are_those_of_the_task(nni: Nni) -> None:
    every, points = nni.client("ball"), nni.client("points")
    kinds = ("points", "bbox2d", "bbox3d", "scribble", "lasso")
    assert every.supported_interactions == dict.fromkeys(kinds, True)
    assert points.supported_interactions == {**dict.fromkeys(kinds, False), "points": True}
    assert (every.supports_undo, every.supports_initial_label, every.license) == (True, True, None)
    assert points.license == "CC0-1.0"
    assert every.preferred_scribble_thickness == [2, 2, 2]
    assert every.INFERENCE_SESSION_VERSION.startswith("2.")
    assert every.channel_mapping["points"] == (3, 4)


def test_ni04_a_prompt_that_the_task_does_not_take_is_a_sentence(nni: Nni) -> None:
    client = nni.with_image("points")
    with pytest.raises(httpx.HTTPStatusError) as caught:
        client.add_bbox_interaction([[1, 3], [1, 3], [1, 3]], True)
    assert caught.value.response.status_code == 400
    assert "It takes: mask, point" in caught.value.response.json()["detail"]


def test_a_key_is_asked_for_on_every_route_but_healthz(make_nni: MakeNni, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NN_INTERACTIVE_API_KEY", raising=False)
    nni = make_nni(nni_api_key="s3cret")
    http = nni.world.http
    assert http.get("/nni/ball/healthz").json() == {"ok": True}
    for wrong, detail in (
        (None, "Missing"),
        ("Bearer", "Missing"),
        ("Basic s3cret", "Missing"),
        ("Bearer x", "Invalid"),
    ):
        headers = {"X-Lease-Token": "0" * 32, **({"Authorization": wrong} if wrong else {})}
        for method, path in (("POST", "claim"), ("GET", "capabilities"), ("POST", "release"), ("POST", "undo")):
            answer = http.request(method, f"/nni/ball/{path}", headers=headers)
            assert (answer.status_code, answer.json()) == (401, {"detail": f"{detail} bearer token"})
    nni.refused(httpx.HTTPStatusError, "401", api_key="wrong")
    assert nni.client(api_key="s3cret").supports_undo
    monkeypatch.setenv("NN_INTERACTIVE_API_KEY", "s3cret")
    assert nni.client().supports_undo


def test_a_client_too_many_hears_so_and_gets_the_place_of_one_that_leaves(make_nni: MakeNni) -> None:
    nni = make_nni(nni_sessions=2)
    first, _ = nni.client(), nni.client("points")
    nni.refused(ServerAtCapacityError, r"at capacity \(2 sessions\)")
    answer = nni.world.http.post("/nni/ball/claim")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
    first.close()
    nni.client().heartbeat()


def test_ni05_410_and_503_mean_what_clients_think(nni: Nni) -> None:
    client = nni.with_image()
    engine = nni.world.engine
    answered = engine.interact
    for error, status in (
        (QueueFull("Others are waiting."), 429),
        (WorkerNotReady("The app is loading."), 429),
        (TaskFailed("The network is on fire."), 500),
        (WorkerDied("It is gone."), 500),
        (DeviceMemoryFull("Try a smaller image."), 507),
        (SessionNotFound("Somebody closed it."), 410),
    ):

        async def failing(
            call: SessionCall, on_partial: object = None, error: LabelServerError = error
        ) -> SessionAnswer:
            raise error

        engine.interact = failing  # type: ignore[method-assign,assignment]
        with pytest.raises((httpx.HTTPStatusError, SessionExpiredError)) as caught:
            client.add_point_interaction((4, 7, 5), True)
        if status == 410:
            assert isinstance(caught.value, SessionExpiredError)
        else:
            assert isinstance(caught.value, httpx.HTTPStatusError)
            assert caught.value.response.status_code == status
            assert caught.value.response.json() == {"detail": error.message}
        engine.interact = answered  # type: ignore[method-assign]


def test_ni05_a_lease_that_never_was_is_an_expired_session(nni: Nni) -> None:
    client = nni.with_image()
    for token, detail in (("", "lease token missing"), ("f" * 32, "lease expired or unknown")):
        client._http.headers["X-Lease-Token"] = token
        with pytest.raises(SessionExpiredError, match=detail):
            client.add_point_interaction((4, 7, 5), True)
        with pytest.raises(SessionExpiredError, match=detail):
            client.heartbeat()


def test_ni05_a_lease_is_good_for_its_mount_alone(nni: Nni) -> None:
    client = nni.with_image("ball")
    answer = nni.world.http.post("/nni/points/undo", headers={"X-Lease-Token": client._lease_token})
    assert answer.status_code == 410


def test_ni06_an_answer_that_takes_too_long_fails_cleanly(nni: Nni, monkeypatch: pytest.MonkeyPatch) -> None:
    client = nni.with_image()
    monkeypatch.setattr(nni_official, "PROMPT_WITHIN_S", 0.05)
    engine = nni.world.engine
    answered = engine.interact

    async def stuck(call: SessionCall, on_partial: object = None) -> SessionAnswer:
        await answered(call)  # the worker did it, and nobody heard
        await asyncio.Event().wait()
        raise AssertionError

    engine.interact = stuck  # type: ignore[method-assign,assignment]
    with pytest.raises(httpx.HTTPStatusError) as caught:
        client.add_point_interaction((2, 3, 3), True)
    assert caught.value.response.status_code == 504
    engine.interact = answered  # type: ignore[method-assign]
    monkeypatch.setattr(nni_official, "PROMPT_WITHIN_S", 30.0)
    client.add_point_interaction((6, 10, 8), True)
    assert client.undo()
    client.add_point_interaction((6, 10, 8), True)
    expected = ball(SHAPE, (6, 10, 8))
    np.testing.assert_array_equal(client.target_buffer | ball(SHAPE, (2, 3, 3)), expected | ball(SHAPE, (2, 3, 3)))


def test_ni07_pages_may_read_the_answers_meta(nni: Nni) -> None:
    origin = {"Origin": "http://127.0.0.1:5000"}
    answer = nni.world.http.get("/nni/ball/healthz", headers=origin)
    assert "X-Meta" in answer.headers["access-control-expose-headers"]
    asked = {"Access-Control-Request-Method": "POST"}
    asked["Access-Control-Request-Headers"] = "authorization, x-lease-token, x-meta"
    allowed = nni.world.http.options("/nni/ball/undo", headers={**origin, **asked})
    assert allowed.headers["access-control-allow-headers"] == "authorization, x-lease-token, x-meta"
    foreign = nni.world.http.post("/nni/ball/claim", headers={"Origin": "http://evil.example"})
    assert foreign.status_code == 403


def test_ni13_a_ball_in_the_corner_is_a_clipped_box_that_replaces_its_content(nni: Nni) -> None:
    client = nni.with_image()
    client.add_point_interaction((8, 13, 0), True)
    assert client._last_paste_bbox == [[6, 9], [11, 14], [0, 3]]
    np.testing.assert_array_equal(client.target_buffer, ball(SHAPE, (8, 13, 0)))
    client.add_point_interaction((8, 13, 0), False)
    assert client.target_buffer.sum() == 0


def test_ni14_the_box_holds_what_changed_and_no_more(nni: Nni) -> None:
    client = nni.with_image()
    client.add_point_interaction((4, 7, 5), True)
    client.add_point_interaction((4, 8, 5), True)
    changed = np.argwhere(ball(SHAPE, (4, 8, 5)) & (1 - ball(SHAPE, (4, 7, 5))))
    assert client._last_paste_bbox == np.stack([changed.min(0), changed.max(0) + 1], axis=1).tolist()
    client.add_point_interaction((4, 8, 5), True)
    assert client._last_paste_bbox is None


def test_ni15_calls_of_one_lease_wait_for_each_other_and_those_of_others_do_not(nni: Nni) -> None:
    """While a prediction takes its time, everything else answers: health, heartbeats, other leases."""
    slow, other = nni.with_image(), nni.with_image()
    engine, portal = nni.world.engine, nni.world.http.portal
    answered = engine.interact
    go, begun = portal.call(asyncio.Event), portal.call(asyncio.Event)
    running: list[str] = []

    async def holding(call: SessionCall, on_partial: object = None) -> SessionAnswer:
        if call.prompts and call.prompts[0].points[0][0] == 2:
            running.append(call.session)
            begun.set()
            await go.wait()
        return await answered(call)

    engine.interact = holding  # type: ignore[method-assign,assignment]
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(slow.add_point_interaction, (2, 3, 3), True)
        portal.call(begun.wait)
        headers = {"X-Lease-Token": slow._lease_token}
        body = {"coordinates": [6, 10, 8], "include_interaction": True}
        url = f"{nni.url}/nni/ball/add_point_interaction"
        second = threads.submit(httpx.post, url, json=body, headers=headers, timeout=60)
        assert httpx.get(f"{nni.url}/nni/ball/healthz").json() == {"ok": True}
        assert httpx.get(f"{nni.url}/healthz").status_code == 200
        assert slow.heartbeat() > 3000
        assert slow.lease_status()["remaining_seconds"] > 3000
        assert other.heartbeat() > 3000
        other.add_point_interaction((4, 7, 5), True)
        np.testing.assert_array_equal(other.target_buffer, ball(SHAPE, (4, 7, 5)))
        nni.world.server.leases.idle_s = nni.world.server.leases.liveness_s = -1.0  # everybody not at work is gone
        portal.call(nni.world.server.leases.rest)
        assert not first.done()
        assert not second.done()
        assert len(running) == 1
        nni.world.server.leases.idle_s = nni.world.server.leases.liveness_s = 3600.0
        portal.call(go.set)
        first.result(30)
        assert second.result(30).status_code == 200
    np.testing.assert_array_equal(slow.target_buffer, ball(SHAPE, (2, 3, 3)))


def test_ni16_undo_has_many_levels(nni: Nni) -> None:
    client = nni.with_image()
    seen = [client.target_buffer.copy()]
    for place in ((4, 7, 5), (2, 3, 3), (6, 10, 8)):
        client.add_point_interaction(place, True)
        seen.append(client.target_buffer.copy())
    for before in reversed(seen[:-1]):
        assert client.undo()
        np.testing.assert_array_equal(client.target_buffer, before)
    assert not client.undo()


def test_ni16_a_client_goes_on_after_its_lease_rested_and_after_a_restart(nni: Nni) -> None:
    client = nni.with_image()
    client.add_point_interaction((4, 7, 5), True)
    leases = nni.world.server.leases
    for restart in (False, True):
        leases._held.clear()
        if restart:
            nni.world.engine.sessions.forget()
            nni.world.server.interactions.held.in_memory.clear()
        place = (2, 3, 3) if restart else (6, 10, 8)
        client.add_point_interaction(place, True)
    expected = ball(SHAPE, (4, 7, 5)) | ball(SHAPE, (6, 10, 8)) | ball(SHAPE, (2, 3, 3))
    np.testing.assert_array_equal(client.target_buffer, expected)
    for _ in range(3):
        assert client.undo()
    assert client.target_buffer.sum() == 0
    client.close()
    assert not list((nni.world.roots.state / "leases").iterdir())
    assert not list((nni.world.roots.state / "sessions").iterdir())
    assert nni.world.spool_is_empty()


def test_run_prediction_false_answers_nothing_and_changes_nothing(nni: Nni) -> None:
    client = nni.with_image()
    assert client.add_point_interaction((4, 7, 5), True, run_prediction=False) is None
    assert client.target_buffer.sum() == 0
    assert nni.world.engine.sessions.calls[-1].verb is SessionVerb.OPEN
    client._predict()
    np.testing.assert_array_equal(client.target_buffer, ball(SHAPE, (4, 7, 5)))


def test_an_image_of_several_channels_is_taken_as_it_is(nni: Nni) -> None:
    client = nni.client()
    sent = np.arange(3 * 4 * 5 * 6, dtype=np.int16).reshape(3, 4, 5, 6)
    client.set_image(sent, {"spacing": np.array([3.0, 1.5, 0.5])})
    call = nni.world.engine.sessions.calls[-1]
    assert call.image_file is not None
    volume = read_volume(nni.world.roots.resolve(call.image_file))
    np.testing.assert_array_equal(volume.voxels, np.moveaxis(sent, 0, -1))
    assert volume.grid.spacing_mm == (3.0, 1.5, 0.5)


def test_a_new_image_forgets_the_one_before(nni: Nni) -> None:
    client = nni.with_image()
    client.add_point_interaction((4, 7, 5), True)
    client.set_image(np.zeros((1, 5, 6, 7), np.uint8), {})
    client.set_target_buffer(np.zeros((5, 6, 7), np.uint8))
    assert not client.undo()
    client.add_point_interaction((1, 2, 3), True)
    np.testing.assert_array_equal(client.target_buffer, ball((5, 6, 7), (1, 2, 3)))
    assert len(list((nni.world.roots.state / "sessions").iterdir())) == 1


def test_a_call_before_its_time_says_what_is_missing(nni: Nni) -> None:
    client = nni.client()
    mask = nnia.encode_array(np.ones(SHAPE, np.uint8))
    headers = {"X-Lease-Token": client._lease_token, "X-Meta": '{"include_interaction":true}'}
    for path, body in (
        ("set_target_buffer", b'{"shape": [9, 14, 11], "dtype": "uint8"}'),
        ("add_point_interaction", b'{"coordinates": [1, 2, 3], "include_interaction": true}'),
        ("add_bbox_interaction", b'{"bbox_coords": [[1, 2], [2, 3], [3, 5]], "include_interaction": true}'),
        ("add_scribble_interaction", mask),
        ("add_lasso_interaction", mask),
        ("add_initial_seg_interaction", mask),
        ("reset_interactions", b"{}"),
        ("undo", b"{}"),
        ("predict", b"{}"),
    ):
        answer = nni.world.http.post(f"/nni/ball/{path}", content=body, headers=headers)
        assert answer.status_code == 400, (path, answer.text)
        assert "set_image" in answer.json()["detail"]


def test_release_needs_no_lease_and_heartbeats_take_any_body(nni: Nni) -> None:
    http = nni.world.http
    for headers in ({}, {"X-Lease-Token": "f" * 32}, {"X-Lease-Token": "../../x"}):
        assert http.post("/nni/ball/release", headers=headers).json() == {"released": True}
    token = http.post("/nni/ball/claim").json()["lease_token"]
    for body in (b"", b"{}"):
        beat = http.post("/nni/ball/heartbeat", content=body, headers={"X-Lease-Token": token})
        assert 3500 < beat.json()["remaining_seconds"] <= 3600


def test_a_client_that_goes_away_ends_its_prediction_and_loses_nothing(nni: Nni) -> None:
    client = nni.with_image()
    engine, portal = nni.world.engine, nni.world.http.portal
    answered, ended = engine.interact, portal.call(asyncio.Event)

    async def stuck(call: SessionCall, on_partial: object = None) -> SessionAnswer:
        try:
            await answered(call)  # the worker did it, and nobody heard
            return await asyncio.Event().wait()  # type: ignore[return-value]
        finally:
            ended.set()

    engine.interact = stuck  # type: ignore[method-assign,assignment]
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{nni.url}/nni/ball/add_point_interaction",
            json={"coordinates": [2, 3, 3], "include_interaction": True},
            headers={"X-Lease-Token": client._lease_token},
            timeout=0.1,
        )
    portal.call(ended.wait)
    engine.interact = answered  # type: ignore[method-assign]
    client.add_point_interaction((6, 10, 8), True)
    opened = portal.call(nni.world.server.interactions.get, *_session_of(nni, client))
    assert client.target_buffer[6, 10, 8] == 1
    for _ in range(opened.undoable):
        assert client.undo()
    assert client.target_buffer.sum() == 0


def _session_of(nni: Nni, client: nnInteractiveRemoteInferenceSession) -> tuple[str, str]:
    session = nni.world.server.leases._held[str(client._lease_token)].session
    assert session is not None
    return session._key
