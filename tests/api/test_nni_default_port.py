"""The second port: one task at "/", for clients of both protocols (NI-01, NI-02)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from nnInteractive.inference.remote.remote_session import nnInteractiveRemoteInferenceSession

from tests.api.conftest import Make, World
from tests.support.ball_app import ball, ball_app
from tests.support.live_server import free_port
from tests.support.served import Served
from tests.support.slicer_client import SHAPE, Slicer


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def world(make_world: Make, port: int) -> World:
    return make_world(ball_app(), nni_model="ball/liver", nni_port=port)


@pytest.fixture
def served(world: World, port: int) -> Iterator[Served]:
    with Served(world.http._app, world.http.portal, 0, port) as server:
        yield server


def test_ni01_the_second_port_needs_no_path(served: Served, port: int) -> None:
    with nnInteractiveRemoteInferenceSession(f"http://127.0.0.1:{port}") as client:
        assert client.ping()
        client.set_image(np.zeros((1, *SHAPE), np.int16), {})
        client.set_target_buffer(np.zeros(SHAPE, np.uint8))
        client.add_point_interaction((4, 7, 5), True)
        drawn = np.zeros(SHAPE, np.uint8)
        drawn[1, 12, 3:9] = 1
        client.add_scribble_interaction(drawn, True)
        client.add_bbox_interaction([[6, 9], [3, 4], [2, 5]], True)
        expected = ball(SHAPE, (4, 7, 5)) | drawn | ball(SHAPE, (6, 3, 2)) | ball(SHAPE, (8, 3, 4))
        np.testing.assert_array_equal(client.target_buffer, expected)


def test_ni02_both_protocols_meet_at_the_second_port(served: Served, port: int) -> None:
    slicer = Slicer(f"http://127.0.0.1:{port}")
    with slicer.http, nnInteractiveRemoteInferenceSession(f"http://127.0.0.1:{port}/") as client:
        client.set_image(np.zeros((1, *SHAPE), np.int16), {})
        client.set_target_buffer(np.zeros(SHAPE, np.uint8))
        assert slicer.point((1, 1, 1)).json()["message"] == "No image uploaded"
        slicer.upload_image()
        np.testing.assert_array_equal(slicer.mask(slicer.point((2, 3, 3))), ball(SHAPE, (2, 3, 3)))
        client.add_point_interaction((4, 7, 5), True)
        drawn = np.zeros(SHAPE, np.uint8)
        drawn[1, 12, 3:9] = 1
        slicer.upload_segment(np.zeros(SHAPE, bool))
        np.testing.assert_array_equal(slicer.mask(slicer.draw("scribble", drawn)), drawn)
        np.testing.assert_array_equal(slicer.mask(slicer.box((1, 1, 3), (1, 2, 4)))[1, 1:3], ball_pair()[1, 1:3])
        np.testing.assert_array_equal(client.target_buffer, ball(SHAPE, (4, 7, 5)))


def ball_pair() -> np.ndarray:
    return ball(SHAPE, (1, 1, 3)) | ball(SHAPE, (1, 2, 4))


def test_ni02_a_client_without_its_token_is_told_so_in_its_own_words(served: Served, world: World, port: int) -> None:
    base = f"http://127.0.0.1:{port}"
    slicer = Slicer(base)
    with slicer.http as http:
        body = b"NNIA"
        binary = {"Content-Type": "application/octet-stream"}
        official = http.post(f"{base}/add_lasso_interaction", data=body, headers=binary, timeout=60)
        assert (official.status_code, official.json()["detail"]) == (410, "lease token missing")
        for document in ({"coordinates": [1, 2, 3], "include_interaction": True}, {}, [], "x"):
            official = http.post(f"{base}/add_point_interaction", json=document, timeout=60)
            assert official.status_code == 410
        assert http.get(base, timeout=5).status_code == 404  # "any answer" is what its connection test asks for


def test_the_first_port_and_its_routes_stay_as_they_are(served: Served, world: World) -> None:
    slicer = Slicer(served.url)
    with slicer.http as http:
        assert http.get(f"{served.url}/healthz", timeout=5).json()["status"] == "ok"
        assert slicer.point((1, 1, 1)).status_code == 404


def test_host_and_origin_are_looked_at_on_the_second_port_too(served: Served, port: int) -> None:
    slicer = Slicer(f"http://127.0.0.1:{port}")
    with slicer.http as http:
        url = f"http://127.0.0.1:{port}/claim"
        assert http.post(url, headers={"Host": "evil.example"}, timeout=5).status_code == 403
        assert http.post(url, headers={"Origin": "http://evil.example"}, timeout=5).status_code == 403
        assert http.post(url, timeout=5).status_code == 200
