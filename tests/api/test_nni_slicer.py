"""The protocol of the older Slicer extension, as its client speaks it with `requests`."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator

import numpy as np
import pytest
import requests

from labelserver.domain.errors import TaskFailed
from labelserver.domain.interaction import SessionAnswer, SessionCall
from labelserver.domain.prompts import PromptKind
from tests.api.conftest import Make, World
from tests.support.ball_app import ball, ball_app
from tests.support.in_process import InProcess
from tests.support.served import Served
from tests.support.slicer_client import SHAPE, Slicer, npy


@pytest.fixture
def world(make_world: Make) -> World:
    return make_world(ball_app())


@pytest.fixture
def served(world: World) -> Iterator[Served]:
    with Served(world.http._app, world.http.portal) as server:
        yield server


@pytest.fixture
def slicer(served: Served) -> Iterator[Slicer]:
    client = Slicer(f"{served.url}/nni-slicer/ball")
    with client.http:
        yield client


def failed(answer: requests.Response) -> str:
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert document["status"] == "error"
    return str(document["message"])


def test_ni20_a_session_with_the_false_header_that_says_gzip(slicer: Slicer) -> None:
    assert slicer.upload_image().json() == {"status": "ok"}
    expected = ball(SHAPE, (4, 7, 5))
    np.testing.assert_array_equal(slicer.mask(slicer.point((4, 7, 5))), expected)
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[1, 12, 3:9] = 1
    np.testing.assert_array_equal(slicer.mask(slicer.draw("scribble", drawn)), expected | drawn)
    erased = np.zeros(SHAPE, np.uint8)
    erased[1, 12, 3:6] = 1
    expected |= drawn & ~erased
    np.testing.assert_array_equal(slicer.mask(slicer.draw("lasso", erased, "False")), expected)
    seed = np.zeros(SHAPE, bool)
    seed[2:4, 2:4, 2:4] = True
    assert slicer.upload_segment(seed).json() == {"status": "ok"}
    np.testing.assert_array_equal(slicer.mask(slicer.point((6, 10, 8))), ball(SHAPE, (6, 10, 8)) | seed)
    assert slicer.upload_segment(np.zeros(SHAPE, bool)).json() == {"status": "ok"}
    np.testing.assert_array_equal(slicer.mask(slicer.point((6, 10, 8))), ball(SHAPE, (6, 10, 8)))


def test_ni21_the_answer_is_gzipped_once(slicer: Slicer) -> None:
    slicer.upload_image()
    answer = slicer.http.post(
        f"{slicer.url}/add_point_interaction",
        json={"voxel_coord": [4, 7, 5], "positive_click": True},
        stream=True,
        headers={"Accept-Encoding": "gzip, deflate, br, zstd"},
        timeout=60,
    )
    assert answer.headers["content-encoding"] == "gzip"
    plain = gzip.decompress(answer.raw.read(decode_content=False))
    assert len(plain) == (int(np.prod(SHAPE)) + 7) // 8
    assert np.unpackbits(np.frombuffer(plain, np.uint8))[: int(np.prod(SHAPE))].sum() == ball(SHAPE, (4, 7, 5)).sum()


def test_ni22_without_an_image_the_client_is_told_to_send_it(slicer: Slicer) -> None:
    mask = np.ones(SHAPE, np.uint8)
    for answer in (
        slicer.point((1, 2, 3)),
        slicer.box((1, 2, 3), (3, 4, 3)),
        slicer.draw("scribble", mask),
        slicer.draw("lasso", mask),
        slicer.upload_segment(mask.astype(bool)),
    ):
        assert failed(answer) == "No image uploaded"


def test_ni22_the_way_back_after_a_restart_that_lost_everything(slicer: Slicer, world: World) -> None:
    slicer.upload_image()
    before = slicer.mask(slicer.point((4, 7, 5)))
    server = world.server
    server.leases._held.clear()
    for session in list(server.interactions.held.in_memory):
        world.http.portal.call(
            server.interactions.close, session, server.interactions.held.in_memory[session].kept.person
        )
    assert failed(slicer.point((6, 10, 8))) == "No image uploaded"
    slicer.upload_image()
    slicer.upload_segment(before.astype(bool))
    np.testing.assert_array_equal(slicer.mask(slicer.point((6, 10, 8))), before | ball(SHAPE, (6, 10, 8)))


def test_ni22_a_restart_that_lost_nothing_goes_unnoticed(slicer: Slicer, world: World) -> None:
    slicer.upload_image()
    before = slicer.mask(slicer.point((4, 7, 5)))
    world.server.leases._held.clear()
    world.server.interactions.held.in_memory.clear()
    world.engine.sessions.forget()
    np.testing.assert_array_equal(slicer.mask(slicer.point((6, 10, 8))), before | ball(SHAPE, (6, 10, 8)))


def test_ni23_failures_are_texts_that_the_client_shows(slicer: Slicer, world: World) -> None:
    slicer.upload_image()
    slicer.point((4, 7, 5))
    assert "outside the image" in failed(slicer.point((99, 0, 0)))
    assert "draw at least one voxel" in failed(slicer.draw("scribble", np.zeros(SHAPE, np.uint8)))
    assert "no size" in failed(slicer.box((1, 2, 3), (1, 2, 5)))
    missing = slicer.http.post(f"{slicer.url}/add_point_interaction", json={"voxel_coord": [1, 2, 3]}, timeout=60)
    assert "positive_click" in failed(missing)
    for body in (b"{", b"[]", b'"x"', b"\xff"):
        assert "The body" in failed(slicer.http.post(f"{slicer.url}/add_point_interaction", data=body, timeout=60))

    async def failing(_: SessionCall, on_partial: object = None) -> SessionAnswer:
        raise TaskFailed("The network is on fire.")

    world.engine.interact = failing  # type: ignore[method-assign,assignment]
    assert failed(slicer.point((4, 7, 5))) == "The network is on fire."


def test_ni03_an_unknown_model_is_404(served: Served) -> None:
    for mount in ("nothing", "plain", "ball/kidney", "nothing/u/x"):
        client = Slicer(f"{served.url}/nni-slicer/{mount}")
        with client.http:
            answers = [client.point((1, 2, 3)), client.upload_image(), client.draw("scribble", np.ones(SHAPE))]
        assert [answer.status_code for answer in answers] == [404] * 3


def test_ni24_what_was_erased_while_drawing_is_not_drawn(slicer: Slicer) -> None:
    slicer.upload_image()
    before, after = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    before[1, 1, 1] = 1
    after[5, 5, 2:6] = 1
    np.testing.assert_array_equal(slicer.mask(slicer.draw("scribble", after - before)), after)


def test_ni25_a_flat_box_is_a_slice_whatever_the_order_of_its_corners(slicer: Slicer, world: World) -> None:
    slicer.upload_image()
    slicer.mask(slicer.box((4, 20, 5), (4, 3, 2)))
    (prompt,) = world.engine.sessions.calls[-1].prompts
    assert prompt.kind is PromptKind.BOX
    assert prompt.points.tolist() == [[4, 3, 2], [4, 13, 5]]


def test_ni26_a_segment_sent_before_a_prompt_replaces_the_mask(slicer: Slicer) -> None:
    slicer.upload_image()
    slicer.point((4, 7, 5))
    edited = np.zeros(SHAPE, bool)
    edited[0, 0, 0] = True
    slicer.upload_segment(edited)
    np.testing.assert_array_equal(slicer.mask(slicer.point((6, 10, 8))), ball(SHAPE, (6, 10, 8)) | edited)


def test_ni27_files_that_are_no_volumes_are_refused(slicer: Slicer, world: World) -> None:
    slicer.upload_image()
    before = slicer.mask(slicer.point((4, 7, 5)))
    whole = npy(np.zeros(SHAPE, np.int16))
    objects = npy(np.array([[[{"a": 1}]]], dtype=object))
    huge = whole.replace(b"(9, 14, 11), }      ", b"(9, 14, 110000), }  ")
    assert len(huge) == len(whole)
    for data in (b"", b"hello", whole[:-1], objects, huge, npy(np.zeros((3, 4))), npy(np.zeros((1, 2, 3, 4)))):
        assert failed(slicer.form("/upload_image", "volume.npy", data, gzipped=False))
    bomb = gzip.compress(bytes(1 << 26))
    for data in (b"", b"hello", bomb, gzip.compress(whole)[:-9], gzip.compress(objects), gzip.compress(huge)):
        assert failed(slicer.form("/upload_segment", "volume.npy.gz", data, gzipped=True))
        for kind in ("scribble", "lasso"):
            path = f"/add_{kind}_interaction"
            assert failed(slicer.form(path, "volume.npy.gz", data, gzipped=True, positive_click="True"))
    assert "shape" in failed(slicer.draw("scribble", np.ones((9, 14, 12), np.uint8)))
    assert "form" in failed(slicer.http.post(f"{slicer.url}/upload_image", data=b"{}", timeout=60)).lower()
    seen = slicer.mask(slicer.point((6, 10, 8)))
    np.testing.assert_array_equal(seen, before | ball(SHAPE, (6, 10, 8)))
    assert world.spool_is_empty()


def test_ni28_two_persons_do_not_see_each_others_masks(world: World, served: Served) -> None:
    places = {"/nni-slicer/ball": (4, 7, 5), "/nni-slicer/ball/u/ann": (2, 3, 3), "/nni-slicer/ball/u/bob": (6, 10, 8)}
    clients = {path: Slicer(f"{served.url}{path}") for path in places}
    for client in clients.values():
        client.upload_image()
    for path, place in places.items():
        np.testing.assert_array_equal(clients[path].mask(clients[path].point(place)), ball(SHAPE, place))
        clients[path].http.close()
    elsewhere = InProcess(world.http._app, address="10.0.0.7")
    elsewhere.portal = world.http.portal
    body = {"voxel_coord": [1, 1, 1], "positive_click": True}
    said = elsewhere.post("/nni-slicer/ball/add_point_interaction", json=body)
    assert said.json() == {"status": "error", "message": "No image uploaded"}


def test_ni28_labels_and_secrets_are_told_apart(world: World, served: Served) -> None:
    world.engine.sessions.label_value = 2
    for path, painted in (("/ball/spleen", True), ("/ball/spleen/u/x", True), ("/ball/liver", False), ("/ball", False)):
        client = Slicer(f"{served.url}/nni-slicer{path}")
        with client.http:
            client.upload_image()
            assert client.mask(client.point((4, 7, 5))).any() == painted


def test_a_key_of_the_server_ends_the_address(make_world: Make) -> None:
    world = make_world(ball_app(), nni_api_key="s3cret")
    body = json.dumps({"voxel_coord": [1, 1, 1], "positive_click": True}).encode()
    for path, status in (("ball", 401), ("ball/u/wrong", 401), ("ball/u/s3cret", 200), ("ball/liver/u/s3cret", 200)):
        answer = world.http.post(f"/nni-slicer/{path}/add_point_interaction", content=body)
        assert answer.status_code == status, path


def test_the_texts_that_say_positive(slicer: Slicer, world: World) -> None:
    slicer.upload_image()
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[1, 2, 3] = 1
    for text, positive in (("True", True), ("true", True), ("1", True), ("YES", True), ("False", False), ("", False)):
        slicer.mask(slicer.draw("scribble", drawn, text))
        assert world.engine.sessions.calls[-1].prompts[0].positive is positive
