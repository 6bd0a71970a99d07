"""Interactive sessions over HTTP: every route, every form of answer, everything that is refused."""

import base64
import gzip
import json
import struct

import numpy as np
import pytest

from labelserver.imaging.volumes import read_volume, write_volume
from labelserver.wire.mask_box import Box, BoxCodec, decode_box, encode_part
from labelserver.wire.sessions import ChangedVoxels
from tests.support.in_process_socket import Denied, InProcessSocket

ZSTD, GZIP = "application/vnd.labelserver.box+zstd", "application/vnd.labelserver.box+gzip"
SHAPE = (14, 12, 10)
ANN, BOB = {"X-Labelserver-Person": "ann"}, {"X-Labelserver-Person": "bob"}
POINT = {"kind": "point", "points": [[5, 6, 4]], "frame": "voxel"}
AFFINE = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -3], [0, 0, 3.0, 1], [0, 0, 0, 1]])


@pytest.fixture
def big(world):
    """A world with an image that clicks fit into."""
    write_volume(world.roots.studies / "ct_big.nii.gz", np.zeros(SHAPE, np.int16), AFFINE, compress=True)
    world.server.datastore.refresh()
    return world


def opened(world, person=ANN, **body):
    answer = world.http.post("/api/v1/sessions", json={"task": "deepedit", "image": "ct_big", **body}, headers=person)
    assert answer.status_code == 201, answer.text
    return answer.json()


def post(world, sid, verb, body=None, *, accept="application/json", person=ANN, content=None, headers=None):
    sent = {"json": body if body is not None else {}} if content is None else {"content": content}
    told = {**person, "Accept": accept, **(headers or {})}
    return world.http.post(f"/api/v1/sessions/{sid}/{verb}", headers=told, **sent)


def mask_of(world, sid, person=ANN):
    answer = world.http.get(f"/api/v1/sessions/{sid}/mask", headers=person)
    assert answer.status_code == 200, answer.text
    path = world.roots.app / "fetched.nii.gz"
    path.write_bytes(answer.content)
    return read_volume(path).voxels


def test_a_session_is_opened_told_of_and_closed(big):
    session = opened(big)
    assert session["shape"] == list(SHAPE)
    assert session["labels"] == {"liver": 1}
    assert set(session["prompt_kinds"]) == {"point", "scribble", "box", "mask"}
    assert session["conversions"] == {"box": "its centre"}
    assert np.allclose(session["affine"], AFFINE)
    url = f"/api/v1/sessions/{session['id']}"
    assert big.http.get(url, headers=ANN).json()["id"] == session["id"]
    assert [s["id"] for s in big.http.get("/api/v1/sessions", headers=ANN).json()["sessions"]] == [session["id"]]
    assert big.http.get("/api/v1/sessions?image=ct_1", headers=ANN).json()["sessions"] == []
    assert big.http.get("/api/v1/sessions", headers=BOB).json()["sessions"] == []
    assert big.http.delete(url, headers=ANN).status_code == 204
    assert big.http.get(url, headers=ANN).status_code == 404


def test_an_image_can_be_prepared_ahead(big):
    body = {"task": "deepedit", "image": "ct_big"}
    assert big.http.post("/api/v1/sessions/prefetch", json=body, headers=ANN).status_code == 204
    assert big.engine.sessions.calls[-1].verb == "prefetch"
    assert big.http.get("/api/v1/sessions", headers=ANN).json()["sessions"] == []
    refused = big.http.post("/api/v1/sessions/prefetch", json={**body, "task": "segmentation"}, headers=ANN)
    assert refused.status_code == 404


def test_models_say_which_prompts_they_take(big):
    models = big.http.get("/api/v1/sessions/models").json()["models"]
    assert [m["name"] for m in models] == ["deepedit"]
    assert models[0]["prompt_kinds"] == ["point", "scribble", "box"]
    assert big.http.get("/info/").json()["models"]["deepedit"]["interactive"]["conversions"] == {"box": "its centre"}


@pytest.mark.parametrize("accept", ["application/json", ZSTD, GZIP, "text/html, */*;q=0.1", f"{GZIP};q=0.2, {ZSTD}"])
def test_the_answer_takes_the_form_that_accept_names(big, accept):
    sid = opened(big)["id"]
    answer = post(big, sid, "prompts", {"prompts": [POINT]}, accept=accept)
    assert answer.status_code == 200, answer.text
    mask = np.zeros(SHAPE, np.uint8)
    if "box" in answer.headers["content-type"]:
        box = decode_box(answer.content, expected_shape=SHAPE)
        assert box.codec is (BoxCodec.GZIP if answer.headers["content-type"] == GZIP else BoxCodec.ZSTD)
        box.paste_into(mask)
        told = box.params
    else:
        told = answer.json()
        change = ChangedVoxels.model_validate(told["change"])
        mask[tuple(slice(a, b) for a, b in zip(change.lo, change.hi, strict=True))] = change.array()
    assert (told["ran"], told["final"], told["undoable"], told["redoable"], told["prompts"]) == (True, True, 1, 0, 1)
    assert told["model_version"] == "7"
    assert (mask == mask_of(big, sid)).all()
    assert mask[5, 6, 4] == 1
    stages = [part.split(";")[0] for part in answer.headers["server-timing"].split(", ")]
    assert stages == ["queue", "load", "pre", "forward", "post", "encode"]


def test_gzip_answers_are_what_a_browser_can_inflate(big):
    sid = opened(big)["id"]
    body = post(big, sid, "prompts", {"prompts": [POINT]}, accept=GZIP).content
    length = struct.unpack_from("<I", body, 44)[0]
    assert gzip.decompress(body[48 + length :])


def test_a_whole_mask_can_be_the_answer(big):
    sid = opened(big)["id"]
    answer = post(big, sid, "prompts", {"prompts": [POINT]}, accept="application/octet-stream")
    path = big.roots.app / "whole.nii.gz"
    path.write_bytes(answer.content)
    volume = read_volume(path)
    assert volume.voxels[5, 6, 4] == 1
    assert np.allclose(volume.grid.affine, AFFINE)
    assert big.spool_is_empty


@pytest.mark.parametrize("ext", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_the_mask_in_any_format(big, ext):
    sid = opened(big)["id"]
    post(big, sid, "prompts", {"prompts": [POINT]})
    answer = big.http.get(f"/api/v1/sessions/{sid}/mask?ext={ext}", headers=ANN)
    path = big.roots.app / f"mask{ext}"
    path.write_bytes(answer.content)
    assert read_volume(path).voxels[5, 6, 4] == 1


@pytest.mark.parametrize("form", ["application/x-ndjson", "boxes+zstd", "boxes+gzip"])
def test_a_streamed_answer_shows_the_coarse_mask_first(big, form):
    big.engine.sessions.partials = True
    sid = opened(big)["id"]
    accept = form if "/" in form else f"application/vnd.labelserver.{form}"
    answer = post(big, sid, "prompts", {"prompts": [POINT]}, accept=accept)
    if form == "application/x-ndjson":
        told = [json.loads(line) for line in answer.content.splitlines()]
        assert base64.b64decode(told[1]["change"]["voxels"])
    else:
        told, rest = [], answer.content
        while rest:
            size = struct.unpack_from("<I", rest)[0]
            told.append(decode_box(rest[4 : 4 + size]).params)
            rest = rest[4 + size :]
    assert [t["final"] for t in told] == [False, True]
    assert told[1]["undoable"] == 1


def test_an_error_before_the_first_coarse_answer_is_an_error_like_any_other(big):
    sid = opened(big)["id"]
    bad = {"prompts": [{**POINT, "points": [[99, 0, 0]]}]}
    answer = post(big, sid, "prompts", bad, accept="application/x-ndjson")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


def test_undo_redo_and_reset(big):
    sid = opened(big)["id"]
    post(big, sid, "prompts", {"prompts": [POINT]})
    one = mask_of(big, sid)
    told = post(big, sid, "undo").json()
    assert (told["ran"], told["undoable"], told["redoable"]) == (True, 0, 1)
    assert not mask_of(big, sid).any()
    assert post(big, sid, "undo").json()["ran"] is False
    assert post(big, sid, "redo").json()["ran"] is True
    assert (mask_of(big, sid) == one).all()
    assert post(big, sid, "reset").json()["prompts"] == 0
    assert not mask_of(big, sid).any()
    post(big, sid, "undo")
    assert (mask_of(big, sid) == one).all()
    post(big, sid, "reset", {"forget": True})
    assert post(big, sid, "undo").json()["ran"] is False


@pytest.mark.parametrize("frame", ["voxel", "ras", "lps"])
def test_points_land_where_they_were_put_in_every_frame(big, frame):
    sid = opened(big)["id"]
    ras = AFFINE @ [5, 6, 4, 1]
    numbers = {"voxel": [5, 6, 4], "ras": ras[:3].tolist(), "lps": [-ras[0], -ras[1], ras[2]]}[frame]
    post(big, sid, "prompts", {"prompts": [{"kind": "point", "points": [numbers], "frame": frame}]})
    where = np.argwhere(mask_of(big, sid))
    assert np.allclose(where.mean(axis=0), [5, 6, 4])


@pytest.mark.parametrize("codec", [BoxCodec.ZSTD, BoxCodec.GZIP])
def test_a_mask_can_be_sent_as_bytes(big, codec):
    sid = opened(big)["id"]
    voxels = np.ones((2, 3, 4), np.uint8)
    box = Box((1, 2, 3), (3, 5, 7))
    body = encode_part(voxels, SHAPE, box, codec=codec, params={"kind": "mask", "predict": False})
    media = ZSTD if codec is BoxCodec.ZSTD else GZIP
    told = post(big, sid, "prompts", content=body, headers={"Content-Type": media}).json()
    assert told["ran"] is False
    mask = mask_of(big, sid)
    assert mask[1:3, 2:5, 3:7].all()
    assert mask.sum() == 24


def test_a_mask_can_be_sent_as_bits_in_json(big):
    sid = opened(big)["id"]
    bits = base64.b64encode(np.packbits(np.ones(8, bool)).tobytes()).decode()
    mask = {"kind": "mask", "mask": {"lo": [1, 1, 1], "shape": [2, 2, 2], "bits": bits}}
    assert post(big, sid, "prompts", {"prompts": [mask], "predict": False}).status_code == 200
    assert mask_of(big, sid).sum() == 8


def test_accept_makes_a_label_with_its_provenance(big):
    sid = opened(big)["id"]
    post(big, sid, "prompts", {"prompts": [POINT]})
    answer = post(big, sid, "accept", {"tag": "final", "info": {"note": "clear case"}})
    assert answer.status_code == 201, answer.text
    revision = answer.json()
    assert (revision["source"], revision["author"], revision["model"]) == ("prompts", "ann", "deepedit")
    assert revision["model_version"] == "7"
    assert revision["info"]["prompts"]["count"] == 1
    assert revision["info"]["note"] == "clear case"
    saved = big.http.get("/api/v1/images/ct_big/labels/final")
    path = big.roots.app / "saved.nii.gz"
    path.write_bytes(saved.content)
    assert (read_volume(path).voxels == mask_of(big, sid)).all()
    post(big, sid, "undo")
    again = post(big, sid, "accept", headers={"If-None-Match": "*"})
    assert again.status_code == 412
    assert big.spool_is_empty


def test_an_upload_can_be_opened_and_not_accepted(big):
    file = big.roots.app / "mine.nii.gz"
    write_volume(file, np.zeros(SHAPE, np.int16), AFFINE, compress=True)
    upload = big.http.put("/session/", files={"files": ("mine.nii.gz", file.read_bytes())}).json()["session_id"]
    answer = big.http.post("/api/v1/sessions", json={"task": "deepedit", "upload": upload}, headers=ANN)
    assert answer.status_code == 201, answer.text
    sid = answer.json()["id"]
    assert answer.json()["image"] is None
    assert post(big, sid, "prompts", {"prompts": [POINT]}).json()["ran"]
    assert post(big, sid, "accept").status_code == 422
    assert big.spool_is_empty


BITS = base64.b64encode(bytes(1)).decode()
BAD = {
    "outside": {"prompts": [{**POINT, "points": [[14, 0, 0]]}]},
    "negative": {"prompts": [{**POINT, "points": [[-1, 0, 0]]}]},
    "far away in mm": {"prompts": [{"kind": "point", "points": [[1e6, 0, 0]], "frame": "ras"}]},
    "empty scribble": {"prompts": [{"kind": "scribble", "points": [], "frame": "voxel"}]},
    "scribble without anything": {"prompts": [{"kind": "scribble"}]},
    "box of no size": {"prompts": [{"kind": "box", "points": [[1, 1, 1], [1, 1, 1]], "frame": "voxel"}]},
    "box of one corner": {"prompts": [{"kind": "box", "points": [[1, 1, 1]], "frame": "voxel"}]},
    "unsupported kind": {"prompts": [{"kind": "lasso", "points": [[1, 1, 1], [2, 2, 2], [3, 3, 3]], "frame": "voxel"}]},
    "unknown kind": {"prompts": [{"kind": "wish", "points": [[1, 1, 1]], "frame": "voxel"}]},
    "no frame": {"prompts": [{"kind": "point", "points": [[1, 1, 1]]}]},
    "two numbers": {"prompts": [{"kind": "point", "points": [[1, 1]], "frame": "voxel"}]},
    "ragged": {"prompts": [{"kind": "scribble", "points": [[1, 1, 1], [1, 1]], "frame": "voxel"}]},
    "not a number": {"prompts": [{"kind": "point", "points": [["a", 1, 1]], "frame": "voxel"}]},
    "two points in one": {"prompts": [{"kind": "point", "points": [[1, 1, 1], [2, 2, 2]], "frame": "voxel"}]},
    "unknown label": {"prompts": [{**POINT, "label": "moon"}]},
    "unknown field": {"prompts": [POINT], "wish": 1},
    "nothing": {"prompts": [], "predict": False},
    "bits that do not fit": {
        "prompts": [{"kind": "mask", "mask": {"lo": [0, 0, 0], "shape": [4, 4, 4], "bits": BITS}}]
    },
    "absurd mask": {
        "prompts": [{"kind": "mask", "mask": {"lo": [0, 0, 0], "shape": [99999, 99999, 99999], "bits": BITS}}]
    },
    "mask over the edge": {"prompts": [{"kind": "mask", "mask": {"lo": [13, 0, 0], "shape": [2, 2, 2], "bits": BITS}}]},
    "one good, one bad": {"prompts": [POINT, {**POINT, "points": [[99, 0, 0]]}]},
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
def test_bad_prompts_are_refused_with_a_sentence_and_change_nothing(big, body):
    sid = opened(big)["id"]
    post(big, sid, "prompts", {"prompts": [POINT]})
    before = mask_of(big, sid)
    answer = post(big, sid, "prompts", body)
    assert answer.status_code == 422, answer.text
    assert len(answer.json()["detail"]) > 15
    assert (mask_of(big, sid) == before).all()
    assert big.http.get(f"/api/v1/sessions/{sid}", headers=ANN).json()["undoable"] == 1


def _header(shape=SHAPE, lo=(0, 0, 0), hi=(1, 1, 1), words=b"{}", size=None):
    numbers = struct.pack("<9II", *shape, *lo, *hi, len(words) if size is None else size)
    return b"LSMB" + bytes([1, 1, 1, 0]) + numbers + words


ABSURD = {
    "huge image": _header(shape=(2**32 - 1,) * 3, hi=(2**31, 2**31, 2**31)) + b"x",
    "huge box": _header(shape=(100_000, 100_000, 2), hi=(100_000, 100_000, 2)) + b"x",
    "box beyond the image": _header(hi=(15, 1, 1)) + b"x",
    "upside down": _header(lo=(3, 3, 3), hi=(1, 1, 1)) + b"x",
    "huge JSON": _header(size=2**31),
    "cut short": _header()[:20],
    "other image": _header(shape=(5, 5, 5)) + b"x",
    "damaged": _header() + b"not zstd",
    "no box": _header(hi=(0, 0, 0)),
    "foreign": b"PK\x03\x04" * 30,
    "JSON of no sense": _header(words=b'{"kind": "wish"}') + b"x",
}


@pytest.mark.parametrize("body", ABSURD.values(), ids=ABSURD.keys())
def test_absurd_sizes_in_a_binary_header_are_refused_before_anything_is_allocated(big, body):
    sid = opened(big)["id"]
    answer = post(big, sid, "prompts", content=body, headers={"Content-Type": ZSTD})
    assert answer.status_code == 422, answer.text
    assert len(answer.json()["detail"]) > 15
    assert not mask_of(big, sid).any()


def test_what_is_not_json_is_refused(big):
    sid = opened(big)["id"]
    for body in (b"{", b"[]", b"\xff\xfe", b'{"prompts": 3}'):
        assert post(big, sid, "prompts", content=body).status_code == 422


def test_a_body_without_end_is_refused(big, monkeypatch):
    monkeypatch.setattr("labelserver.api.session_bodies.MAX_BODY_BYTES", 1000)
    sid = opened(big)["id"]
    assert post(big, sid, "prompts", content=b" " * 2000).status_code == 413


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"task": "deepedit"}, 422),
        ({"task": "deepedit", "image": "ct_big", "upload": "x"}, 422),
        ({"task": "deepedit", "image": "ct_99"}, 404),
        ({"task": "deepedit", "image": "../etc"}, 422),
        ({"task": "segmentation", "image": "ct_big"}, 404),
        ({"task": "nothing", "image": "ct_big"}, 404),
        ({"task": "deepedit", "upload": "00000000-0000-4000-8000-000000000000"}, 404),
        ({"image": "ct_big"}, 422),
        ({"task": "deepedit", "image": "flat"}, 422),
    ],
)
def test_what_cannot_be_opened(big, body, status):
    write_volume(big.roots.studies / "flat.png", np.zeros((6, 6, 1), np.uint8), np.eye(4), compress=True)
    big.server.datastore.refresh()
    answer = big.http.post("/api/v1/sessions", json=body, headers=ANN)
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"]
    assert not list((big.roots.state / "sessions").glob("*"))
    assert big.spool_is_empty


def test_another_persons_session_is_not_there(big):
    sid = opened(big)["id"]
    url = f"/api/v1/sessions/{sid}"
    asked = [
        big.http.get(url, headers=BOB),
        big.http.get(f"{url}/mask", headers=BOB),
        big.http.delete(url, headers=BOB),
        *(post(big, sid, verb, person=BOB) for verb in ("prompts", "undo", "redo", "reset", "accept")),
        big.http.get("/api/v1/sessions/xxxxxxxxxxxxxxxxxxxxxxxx", headers=ANN),
    ]
    assert [answer.status_code for answer in asked] == [404] * len(asked)
    assert big.http.get(url, headers=ANN).status_code == 200


def test_an_expired_session_is_not_there(make_world):
    world = make_world(keep_sessions_days=1)
    write_volume(world.roots.studies / "ct_big.nii.gz", np.zeros(SHAPE, np.int16), AFFINE, compress=True)
    world.server.datastore.refresh()
    sid = opened(world)["id"]
    world.server.interactions.held.clock = lambda: 4e9
    assert world.http.get(f"/api/v1/sessions/{sid}", headers=ANN).status_code == 404


def test_a_full_queue_answers_429_with_retry_after(big, monkeypatch):
    monkeypatch.setattr("labelserver.interaction.held_sessions.MAX_WAITING", 0)
    sid = opened(big)["id"]
    answer = post(big, sid, "undo")
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0


def ask(socket, **message):
    socket.send_text(json.dumps(message))


def test_a_websocket_shows_the_coarse_mask_first_and_walks_through_the_steps(big):
    big.engine.sessions.partials = True
    sid = opened(big)["id"]
    mask = np.zeros(SHAPE, np.uint8)
    with InProcessSocket(big.http, f"/api/v1/sessions/{sid}/stream?codec=zstd", ANN) as socket:
        ask(socket, verb="prompt", prompts=[POINT], id=1)
        coarse, final = decode_box(socket.receive_bytes()), decode_box(socket.receive_bytes())
        assert (coarse.params["final"], final.params["final"]) == (False, True)
        assert (coarse.params["id"], final.params["id"]) == (1, 1)
        final.paste_into(mask)
        assert mask[5, 6, 4] == 1
        ask(socket, verb="undo", id="two")
        undone = decode_box(socket.receive_bytes())
        undone.paste_into(mask)
        assert undone.params["id"] == "two"
        assert not mask.any()
        ask(socket, verb="redo")
        assert decode_box(socket.receive_bytes()).params["undoable"] == 1
        ask(socket, verb="reset")
        assert decode_box(socket.receive_bytes()).params["prompts"] == 0
        body = encode_part(
            np.ones((2, 2, 2), np.uint8), SHAPE, Box((1, 1, 1), (3, 3, 3)), params={"predict": False, "id": 9}
        )
        socket.send_bytes(body)
        seeded = decode_box(socket.receive_bytes())
        assert (seeded.params["id"], seeded.voxels.sum()) == (9, 8)


def test_a_websocket_tells_problems_and_goes_on(big):
    sid = opened(big)["id"]
    with InProcessSocket(big.http, f"/api/v1/sessions/{sid}/stream", ANN) as socket:
        for message in (
            {"verb": "prompt", "prompts": [{**POINT, "points": [[99, 0, 0]]}]},
            {"verb": "fly"},
            {"verb": "prompt", "prompts": 3},
        ):
            ask(socket, id=5, **message)
            told = json.loads(socket.receive_text())
            assert (told["problem"]["status"], told["id"]) == (422, 5)
        socket.send_text("{")
        assert json.loads(socket.receive_text())["problem"]["status"] == 422
        ask(socket, verb="prompt", prompts=[POINT])
        assert decode_box(socket.receive_bytes()).codec is BoxCodec.GZIP


def test_a_websocket_of_another_persons_session_is_refused(big):
    sid = opened(big)["id"]
    with pytest.raises(Denied) as denied, InProcessSocket(big.http, f"/api/v1/sessions/{sid}/stream", BOB):
        pass
    assert denied.value.status == 404
    with pytest.raises(Denied) as denied, InProcessSocket(big.http, f"/api/v1/sessions/{sid}/stream?codec=zip", ANN):
        pass
    assert denied.value.status == 422


def test_prompts_are_counted_in_the_time_log_of_whoever_has_the_image(big):
    asked = {"strategy": "first", "resume": False}
    given = [big.http.post("/api/v1/queue/next", json=asked, headers=ANN).json()["image"]["id"] for _ in range(3)]
    assert given == ["ct_1", "ct_2", "ct_big"]
    sid = opened(big)["id"]
    for _ in range(2):
        assert post(big, sid, "prompts", {"prompts": [POINT]}).status_code == 200
    pieces = big.http.get("/api/v1/time-log", params={"person": "ann"}).json()["pieces"]
    assert {piece["image"]: piece["prompts"] for piece in pieces} == {"ct_1": 0, "ct_2": 0, "ct_big": 2}
