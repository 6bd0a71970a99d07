"""A page's drafts: kept as they are, numbered, each person's own."""

from __future__ import annotations

import gzip
import json
from typing import Any

import httpx
import numpy as np
import pytest

from tests.api.conftest import SHAPE, World, nifti

URL = "/api/v1/images/ct_1/drafts/mine"
ADA = {"X-Labelserver-Person": "Ada"}
BOB = {"X-Labelserver-Person": "Bob"}
MAP = np.random.default_rng(5).integers(0, 3, SHAPE).astype(np.uint8)


def put(world: World, data: bytes, who: dict[str, str] = ADA, **params: Any) -> httpx.Response:
    body = {"params": json.dumps(params)}
    return world.http.put(f"{URL}/voxels", files={"voxels": ("m", data)}, data=body, headers=who)


PACKED = gzip.compress(MAP.tobytes(order="F"))


def test_a_draft_comes_back_bit_by_bit_also_from_a_new_server(world: World) -> None:
    state = {"tool": "brush", "undo": [1, 2], "text": "Ünï"}
    kept = put(world, PACKED, state=state, label_etag='"abc"').json()
    assert (kept["dims"], kept["dtype"], kept["state"], kept["label_etag"]) == (list(SHAPE), "uint8", state, '"abc"')
    answer = world.http.get(f"{URL}/voxels", headers=ADA)
    np.testing.assert_array_equal(np.frombuffer(answer.content, np.uint8).reshape(SHAPE, order="F"), MAP)
    told = json.loads(answer.headers["x-labelserver-draft"])
    assert told == {k: v for k, v in kept.items() if k != "state"}
    assert world.http.get(f"{URL}/state", headers=ADA).json() == kept
    assert world.http.get(f"{URL}/state", headers=BOB).status_code == 404


def test_two_tabs_do_not_overwrite_each_other(world: World) -> None:
    first = put(world, PACKED).json()["number"]
    assert put(world, PACKED).status_code == 409  # the second tab knows of none
    second = put(world, PACKED, based_on=first).json()["number"]
    assert second > first
    late = put(world, PACKED, based_on=first)
    assert (late.status_code, late.json()["code"], late.json()["fields"]["number"]) == (409, "Conflict", second)
    assert put(world, PACKED, based_on=first, force=True).json()["number"] > second


def test_a_number_never_comes_again(world: World) -> None:
    first = put(world, PACKED).json()["number"]
    world.http.delete(URL, headers=ADA)
    assert put(world, PACKED, based_on=first).status_code == 409
    assert put(world, PACKED).json()["number"] > first


def test_the_callers_drafts_are_listed(world: World) -> None:
    number = put(world, PACKED).json()["number"]
    listed = world.http.get("/api/v1/drafts", headers=ADA).json()["drafts"]
    assert [(d["image"], d["tag"], d["number"]) for d in listed] == [("ct_1", "final", number)]
    assert world.http.get("/api/v1/drafts", headers=BOB).json() == {"drafts": []}


def test_a_draft_of_other_pixels_is_told(world: World) -> None:
    content = world.http.get("/api/v1/images/ct_1/volume").json()["content"]
    number = put(world, PACKED, content=content).json()["number"]
    nifti(world.roots.studies / "ct_1.nii.gz", np.zeros((3, 3, 3), np.int16))
    assert world.http.get(f"{URL}/voxels", headers=ADA).status_code == 409
    assert put(world, gzip.compress(bytes(27)), content=content, based_on=number).status_code == 409


@pytest.mark.parametrize(
    ("data", "params", "status"),
    [
        (PACKED[:-3], {}, 422),
        (PACKED + b"x", {}, 422),
        (MAP.tobytes(), {}, 422),
        (gzip.compress(bytes(119)), {}, 422),
        (gzip.compress(bytes(10**7)), {}, 422),
        (PACKED, {"based_on": -1}, 422),
        (PACKED, {"unknown": 1}, 422),
        (PACKED, {"state": {"x": "y" * 300_000}}, 413),
    ],
)
def test_what_is_no_draft_leaves_the_old_one(world: World, data: bytes, params: dict[str, Any], status: int) -> None:
    kept = put(world, PACKED).json()
    answer = put(world, data, **{"based_on": kept["number"], **params})
    assert answer.status_code == status
    assert answer.json()["detail"]
    assert world.http.get(f"{URL}/state", headers=ADA).json() == kept
    assert world.spool_is_empty()


def test_a_label_file_of_another_program_is_no_map(world: World) -> None:
    world.http.put(URL, files={"label": ("d.nii.gz", b"content")}, headers=ADA)
    answer = world.http.get(f"{URL}/voxels", headers=ADA)
    assert (answer.status_code, ".nii.gz" in answer.json()["detail"]) == (404, True)
