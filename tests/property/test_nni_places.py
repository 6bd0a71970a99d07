"""Masks of nnInteractive's clients land where the click was, whatever the array; nonsense is refused as such."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from labelserver.wire import nnia
from tests.api.conftest import World, make_world  # noqa: F401 - a fixture
from tests.support.ball_app import ball, ball_app
from tests.support.slicer_client import npy

SHAPE = (5, 7, 6)
SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

shapes = st.tuples(*[st.integers(1, 13)] * 3)
kinds = st.sampled_from(["int16", "uint8", "float32", "float16", "bool", "int64"])


class Official:
    """Bare calls of the official protocol."""

    def __init__(self, world: World, mount: str = "ball") -> None:
        self.world, self.base = world, f"/nni/{mount}"
        self.token = world.http.post(f"{self.base}/claim").json()["lease_token"]

    def post(self, path: str, body: bytes = b"", meta: str | None = None) -> Any:
        headers = {"X-Lease-Token": self.token, **({} if meta is None else {"X-Meta": meta})}
        return self.world.http.post(f"{self.base}/{path}", content=body, headers=headers)

    def image(self, shape: tuple[int, ...], dtype: str = "int16") -> None:
        sent = nnia.encode_array(np.zeros((1, *shape), dtype))
        assert self.post("set_image", sent, "{}").status_code == 200
        body = json.dumps({"shape": shape, "dtype": "uint8"}).encode()
        assert self.post("set_target_buffer", body).status_code == 200


@pytest.fixture
def world(make_world: Any) -> World:  # noqa: F811 - the fixture
    made: World = make_world(ball_app())
    return made


@pytest.fixture
def official(world: World) -> Iterator[Official]:
    caller = Official(world)
    caller.image(SHAPE)
    return caller


@SETTINGS
@given(shape=shapes, where=st.tuples(*[st.floats(0, 0.999)] * 3), dtype=kinds)
def test_a_point_lands_on_its_voxel_in_both_protocols(
    world: World, shape: tuple[int, int, int], where: tuple[float, ...], dtype: str
) -> None:
    i, j, k = (int(part * size) for part, size in zip(where, shape, strict=True))
    expected = ball(shape, (i, j, k))
    for mount in ("ball", "ball/liver"):
        caller = Official(world, mount)
        caller.image(shape, dtype)
        body = json.dumps({"coordinates": [i, j, k], "include_interaction": True}).encode()
        answer = caller.post("add_point_interaction", body)
        copy = np.zeros(shape, np.uint8)
        spans = json.loads(answer.headers["x-meta"])["bbox"]
        copy[tuple(slice(*span) for span in spans)] = nnia.decode_array(answer.content, max_bytes=1 << 20)
        np.testing.assert_array_equal(copy, expected)
        caller.post("release")
        base = f"/nni-slicer/{mount}"
        files = {"file": ("volume.npy", npy(np.zeros(shape, dtype)), "application/octet-stream")}
        assert world.http.post(f"{base}/upload_image", files=files).json() == {"status": "ok"}
        clicked = {"voxel_coord": [i, j, k], "positive_click": True}
        bits = np.unpackbits(
            np.frombuffer(world.http.post(f"{base}/add_point_interaction", json=clicked).content, np.uint8)
        )
        np.testing.assert_array_equal(bits[: expected.size].reshape(shape), expected)


@SETTINGS
@given(spans=st.tuples(*[st.tuples(st.integers(-2, 8), st.integers(-2, 8))] * 3), patch=st.booleans())
def test_a_mask_in_a_box_lands_in_its_box_or_is_refused(
    official: Official, spans: tuple[tuple[int, int], ...], patch: bool
) -> None:
    official.post("reset_interactions", b"{}")
    size = [max(0, hi - lo) for lo, hi in spans]
    mask = np.ones(size if patch else SHAPE, np.uint8)
    meta = json.dumps({"include_interaction": True, "interaction_bbox": spans if patch else None})
    answer = official.post("add_scribble_interaction", nnia.encode_array(mask), meta)
    inside = all(0 <= lo < hi <= n for (lo, hi), n in zip(spans, SHAPE, strict=True))
    if not patch:
        assert json.loads(answer.headers["x-meta"])["bbox"] == [[0, n] for n in SHAPE]
    elif inside:
        assert json.loads(answer.headers["x-meta"])["bbox"] == [list(span) for span in spans]
    else:
        assert answer.status_code == 400, answer.text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
KEYS = (
    "coordinates bbox_coords include_interaction run_prediction interaction_bbox image_properties shape dtype spacing"
)
KEYS += " spacing do_autozoom voxel_coord outer_point_one outer_point_two positive_click"
keys = st.sampled_from(KEYS.split())
likely = st.one_of(
    json_values,
    st.lists(st.integers(-(10**30), 10**30) | st.floats(), min_size=3, max_size=3),
    st.lists(st.lists(st.integers(-(10**20), 10**20), min_size=2, max_size=2), min_size=3, max_size=3),
    st.just(True),
)
documents = st.one_of(st.dictionaries(keys, likely, max_size=5), json_values).map(json.dumps)
texts = st.one_of(documents, st.text(st.characters(min_codepoint=32, max_codepoint=126)), st.just("[" * 5000))


def fine(answer: Any) -> None:
    """Refused or done, never a failure of ours; refused with a sentence."""
    assert answer.status_code < 500, answer.text
    assert answer.status_code != 410
    if answer.status_code != 200:
        assert isinstance(answer.json()["detail"], str)


@SETTINGS
@given(text=texts, name=st.sampled_from(["point", "bbox", "scribble", "lasso", "initial_seg"]))
@example(text='{"include_interaction": true, "coordinates": [1e400, 1, 1]}', name="point")
@example(text='{"include_interaction": true, "coordinates": [' + "9" * 400 + ", 1, 1]}", name="point")
@example(text='{"include_interaction": true, "coordinates": [NaN, 1, 1]}', name="point")
@example(text='{"include_interaction": true, "bbox_coords": [[0, 9e99], [0, 1], [0, 1]]}', name="bbox")
def test_words_that_make_no_sense_are_refused(official: Official, text: str, name: str) -> None:
    mask = nnia.encode_array(np.ones(SHAPE, np.uint8))
    for path in (f"add_{name}_interaction", "set_target_buffer", "set_do_autozoom", "predict"):
        fine(official.post(path, text.encode(), text.strip()))
    fine(official.post(f"add_{name}_interaction", mask, text.strip()))
    for path in ("add_point_interaction", "add_bbox_interaction"):
        answer = official.world.http.post(f"/nni-slicer/ball/{path}", content=text.encode())
        assert answer.status_code == 200, answer.text


@SETTINGS
@given(data=st.data(), whole=st.booleans())
def test_arrays_that_make_no_sense_are_refused(official: Official, data: st.DataObject, whole: bool) -> None:
    packed = bytearray(nnia.encode_array(np.arange(210, dtype=np.int16).reshape(1, *SHAPE)[: 1 if whole else 0]))
    for place in data.draw(st.lists(st.integers(0, len(packed) - 1), max_size=4)):
        packed[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(packed)))
    for body in (bytes(packed), bytes(packed[:cut])):
        fine(official.post("set_image", body, data.draw(texts).strip()))
        fine(official.post("add_scribble_interaction", body, '{"include_interaction":true}'))
        fine(official.post("add_initial_seg_interaction", body, "{}"))
