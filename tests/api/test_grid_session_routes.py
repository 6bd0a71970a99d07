"""Sessions on the RAS+ grid over HTTP: a click arrives at the task at its voxel, the answer at the click."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from labelserver.domain.infer import InferAnswer, InferRequest
from labelserver.domain.interaction import SessionVerb
from labelserver.domain.paths import Root
from labelserver.domain.schema import LabelSchema, SchemaEntry, SchemaMode
from labelserver.imaging.volumes import read_grid, write_volume
from labelserver.wire.mask_box import changed_box, encode_box
from tests.api.conftest import Make, World
from tests.property.test_reordering import CHANGES, grid_of
from tests.support.ball_app import ball, ball_app

DIMS = (9, 10, 11)
CLICK = (6, 3, 7)  #: of the RAS+ grid


@pytest.fixture
def turned(make_world: Make) -> World:
    """The same image in 48 axis orders: o0 ... o47."""
    world = make_world(ball_app())
    grid = grid_of(DIMS, (0.9, 1.3, 4.0), (11.0, -23.0, 7.5))
    for number, change in enumerate(CHANGES):
        file = world.roots.studies / f"o{number}.nii.gz"
        write_volume(file, change.apply(np.zeros(DIMS, np.int16)), change.apply_to_grid(grid).affine, compress=True)
    world.store.refresh()
    return world


def opened(world: World, image: str = "o17") -> str:
    answer = world.http.post("/api/v1/sessions", json={"task": "ball", "image": image})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def ask(world: World, sid: str, verb: str = "prompts", **body: Any) -> httpx.Response:
    return world.http.post(f"/api/v1/sessions/{sid}/grid/{verb}", json=body)


def point(*at: float, **more: Any) -> dict[str, Any]:
    return {"kind": "point", "points": [list(at)], **more}


def masked(lo: list[int], shape: list[int], bits: str) -> dict[str, Any]:
    return {"kind": "scribble", "mask": {"lo": lo, "shape": shape, "bits": bits}}


def told_of(answer: httpx.Response) -> tuple[dict[str, Any], NDArray[Any]]:
    assert answer.status_code == 200, answer.text
    told = json.loads(answer.headers["x-labelserver-answer"])
    shape = tuple(b - a for a, b in zip(told["lo"], told["hi"], strict=True))
    return told, np.frombuffer(answer.content, told["dtype"]).reshape(shape, order="F")


def pasted(mask: NDArray[Any], answer: httpx.Response) -> NDArray[Any]:
    told, part = told_of(answer)
    box = tuple(slice(a, b) for a, b in zip(told["lo"], told["hi"], strict=True))
    after = np.zeros_like(mask) if told["whole"] else mask.copy()
    after[box] = part
    return after


def test_a_click_lands_where_it_was_made_for_every_axis_order(turned: World) -> None:
    for number, change in enumerate(CHANGES):
        answer = ask(turned, opened(turned, f"o{number}"), prompts=[point(*CLICK)])
        mask = pasted(np.zeros(DIMS, np.uint8), answer)
        np.testing.assert_array_equal(mask, ball(DIMS, CLICK), err_msg=str(change))
        call = [c for c in turned.engine.sessions.calls if c.verb is SessionVerb.PROMPT][-1]
        marked = np.zeros(DIMS, np.uint8)
        marked[CLICK] = 1
        expected = np.argwhere(change.apply(marked))[0]  # where the clicked voxel lies in the file
        np.testing.assert_array_equal(call.prompts[0].points, [expected])


@pytest.mark.parametrize("kind", ["scribble", "lasso"])
def test_a_drawn_mask_arrives_voxel_for_voxel(turned: World, kind: str) -> None:
    drawn = np.random.default_rng(4).random((3, 4, 2)) < 0.5
    bits = base64.b64encode(np.packbits(drawn.reshape(-1, order="F"), bitorder="little").tobytes()).decode()
    for number, change in enumerate(CHANGES):
        mask = {"lo": [2, 1, 5], "shape": [3, 4, 2], "bits": bits}
        told_of(ask(turned, opened(turned, f"o{number}"), prompts=[{"kind": kind, "mask": mask}]))
        sent = turned.engine.sessions.calls[-1].prompts[0].mask
        assert sent is not None
        whole = np.zeros(DIMS, bool)
        whole[2:5, 1:5, 5:7] = drawn
        there = np.zeros(change.apply(whole).shape, bool)
        there[tuple(slice(a, b) for a, b in zip(sent.lo, sent.hi, strict=True))] = sent.voxels
        np.testing.assert_array_equal(there, change.apply(whole), err_msg=str(change))


def test_whoever_lost_an_answer_gets_the_whole_mask(turned: World) -> None:
    sid = opened(turned)
    first, _ = told_of(ask(turned, sid, seq=1, at=0, prompts=[point(2, 2, 2)]))
    assert (first["seq"], first["whole"], first["at"]) == (1, False, 1)
    lost = ask(turned, sid, seq=2, at=first["at"], prompts=[point(6, 6, 6)])
    assert lost.status_code == 200
    late = ask(turned, sid, seq=3, at=first["at"], prompts=[point(2, 7, 8)])
    told, _ = told_of(late)
    assert (told["seq"], told["whole"], told["at"]) == (3, True, 3)
    expected = ball(DIMS, (2, 2, 2)) | ball(DIMS, (6, 6, 6)) | ball(DIMS, (2, 7, 8))
    np.testing.assert_array_equal(pasted(np.ones(DIMS, np.uint8), late), expected)
    np.testing.assert_array_equal(
        pasted(np.ones(DIMS, np.uint8), turned.http.get(f"/api/v1/sessions/{sid}/grid/mask")), expected
    )
    assert turned.http.get(f"/api/v1/sessions/{sid}/grid").json()["at"] == 3


def test_undo_redo_and_reset_answer_boxes_that_lead_to_the_same_mask(turned: World) -> None:
    sid = opened(turned)
    mask = pasted(np.zeros(DIMS, np.uint8), ask(turned, sid, prompts=[point(2, 2, 2)]))
    one = mask.copy()
    mask = both = pasted(mask, ask(turned, sid, prompts=[point(4, 4, 3)]))
    mask = pasted(mask, ask(turned, sid, "undo", seq=9, at=2))
    np.testing.assert_array_equal(mask, one)
    mask = pasted(mask, ask(turned, sid, "redo", at=3))
    np.testing.assert_array_equal(mask, both)
    nothing, part = told_of(ask(turned, sid, "redo", at=4))
    assert (nothing["ran"], nothing["lo"] == nothing["hi"], part.size) == (False, True, 0)
    answer = ask(turned, sid, "reset", at=4)
    assert told_of(answer)[0]["at"] == 5
    assert not pasted(mask, answer).any()


def test_answers_are_in_the_values_of_the_schema(turned: World) -> None:
    """The model counts spleen 2, liver 1; the project liver 7 and nothing else."""
    entries = (SchemaEntry("liver", 7, "Liver", (1, 2, 3)),)
    before = turned.store.schema()
    turned.store.set_schema(LabelSchema(before.version, SchemaMode.STRICT, entries))
    sid = opened(turned)
    told, part = told_of(ask(turned, sid, prompts=[point(*CLICK, label="liver")]))
    assert (told["labels"], told["unknown"], set(np.unique(part))) == ({"liver": 7}, ["spleen"], {0, 7})
    session = turned.http.get(f"/api/v1/sessions/{sid}/grid").json()
    assert (session["labels"], session["unknown"], session["dims"]) == ({"liver": 7}, ["spleen"], list(DIMS))


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"prompts": [point(9, 0, 0)]}, 422, "[9, 10, 11]"),
        ({"prompts": [point(-1, 0, 0)]}, 422, "outside"),
        ({"prompts": [{"kind": "mask"}]}, 422, "mask"),
        (
            {"prompts": [{"kind": "scribble", "mask": {"lo": [0, 0, 0], "shape": [1, 1, 1], "bits": "!"}}]},
            422,
            "base64",
        ),
        ({"prompts": [{"kind": "scribble", "mask": {"lo": [0, 0, 0], "shape": [9, 9, 9], "bits": "AA=="}}]}, 422, "92"),
        (
            {"prompts": [{"kind": "scribble", "mask": {"lo": [8, 0, 0], "shape": [2, 1, 1], "bits": "Aw=="}}]},
            422,
            "beyond",
        ),
        ({"prompts": [point(1, 1, 1, label="heart")]}, 422, "heart"),
        ({"prompts": [], "predict": False}, 422, "nothing to do"),
        ({"prompts": [point(1, 1, 1)], "at": "x"}, 422, "at"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words_of_the_grid(
    turned: World, body: dict[str, Any], status: int, words: str
) -> None:
    sid = opened(turned)
    answer = ask(turned, sid, **body)
    assert (answer.status_code, words in answer.json()["detail"]) == (status, True), answer.text
    assert turned.http.get(f"/api/v1/sessions/{sid}").json()["undoable"] == 0


def test_another_persons_session_is_not_there(turned: World) -> None:
    sid = opened(turned)
    other = {"X-Labelserver-Person": "Bob"}
    for method, rest in (("GET", ""), ("GET", "/mask"), ("POST", "/prompts"), ("POST", "/undo"), ("POST", "/reset")):
        body = {"json": {}} if method == "POST" else {}
        answer = turned.http.request(method, f"/api/v1/sessions/{sid}/grid{rest}", headers=other, **body)  # type: ignore[arg-type]
        assert answer.status_code == 404, rest


@pytest.mark.parametrize("form", ["sent", "box", "file"])
def test_a_prediction_comes_on_the_grid_in_the_schemas_values(make_world: Make, form: str) -> None:
    world = make_world()
    grid = grid_of(DIMS, (0.9, 1.3, 4.0), (0.0, 0.0, 0.0))
    truth = np.zeros(DIMS, np.uint8)
    truth[2:5, 3:9, 4:6], truth[3, 4, 5] = 1, 2
    world.store.set_schema(
        LabelSchema(
            world.store.schema().version,
            SchemaMode.OPEN,
            (SchemaEntry("spleen", 1, "spleen", (1, 2, 3)), SchemaEntry("liver", 300, "liver", (3, 2, 1))),
        )
    )

    async def infer(request: InferRequest) -> InferAnswer:
        file = world.server.spool / ("answer.nii.gz" if form == "file" else "answer.lsmb")
        image = read_grid(world.roots.studies / f"{request.image_id}.nii.gz")
        mask = CHANGES[int(str(request.image_id)[1:])].apply(truth)
        names = {"background": 0, "liver": 1, "spleen": 2}
        params: dict[str, Any] = {"label_names": names, "latencies": {"total": 0.1}}
        box = encode_box(mask, changed_box(None, mask))
        if form == "sent":  # beside the answer's JSON, without a file
            return InferAnswer(params, model_version="3", box=box)
        if form == "box":
            file.write_bytes(box)
        else:
            write_volume(file, mask, image.affine, compress=True)
        where = world.roots.relative(file, Root.STATE)
        return InferAnswer(params, where, file.suffix, model_version="3")

    world.engine.answer = infer
    for number in (0, 13, 29, 47):
        change = CHANGES[number]
        file = world.roots.studies / f"o{number}.nii.gz"
        write_volume(file, change.apply(np.zeros(DIMS, np.int16)), change.apply_to_grid(grid).affine, compress=True)
    world.store.refresh()
    for number in (0, 13, 29, 47):
        answer = world.http.post(f"/api/v1/images/o{number}/predictions/segmentation", json={"save_label": True})
        told, _ = told_of(answer)
        assert (told["labels"], told["model_version"], told["dtype"]) == ({"liver": 300, "spleen": 1}, "3", "uint16")
        mask = pasted(np.zeros(DIMS, np.uint16), answer)
        np.testing.assert_array_equal(mask, np.select([truth == 1, truth == 2], [300, 1]))
        assert "save_label" not in world.engine.requests[-1].params
    assert world.spool_is_empty()
    assert world.http.post("/api/v1/images/o0/predictions/none", json={}).status_code == 404
    assert world.http.post("/api/v1/images/none/predictions/segmentation", json={}).status_code == 404
    assert world.http.post("/api/v1/images/o0/predictions/segmentation", json={"image": "o13"}).status_code == 422
