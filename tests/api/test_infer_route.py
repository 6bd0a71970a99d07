"""``POST /infer/{model}``: what reaches the worker, and the bytes that come back (R-20 to R-28, R-41 to R-43)."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import numpy as np
import pytest

from labelserver.domain.errors import (
    DeviceMemoryFull,
    QueueFull,
    TaskFailed,
    UnreadableFile,
    WorkerDied,
    WorkerNotReady,
)
from labelserver.domain.infer import InferAnswer, InferRequest, Priority
from labelserver.domain.paths import Root
from labelserver.imaging.volumes import read_volume
from labelserver.wire.mask_box import (
    EXTENSION,
    MEDIA_TYPE_GZIP,
    MEDIA_TYPE_ZSTD,
    BoxCodec,
    changed_box,
    decode_box,
    encode_box,
)
from tests.api.conftest import AFFINE, SHAPE, Make, World, nifti
from tests.fakes.fake_engine import described

URL = "/infer/segmentation?image=ct_1"


def answering(world: World, params: dict, ext: str = ".nrrd", data: bytes = b"NRRD0004\nmask") -> None:
    async def infer(request: InferRequest) -> InferAnswer:
        if ext == EXTENSION:
            return InferAnswer(params=params, box=data)
        return world.engine.spooled(data, ext, params) if ext else InferAnswer(params=params)

    world.engine.answer = infer


def test_r20_to_r23_the_two_parts_are_byte_for_byte_what_clients_search_for(world: World) -> None:
    answer = world.http.post(URL)
    assert answer.status_code == 200
    media = answer.headers["content-type"]
    boundary = re.fullmatch(r"multipart/form-data; boundary=([0-9a-f]{32})", media)
    assert boundary is not None, media
    b = boundary.group(1)
    assert (
        answer.content
        == (
            f"--{b}\r\n"
            'Content-Disposition: form-data; name="params"\r\n'
            "Content-Type: application/json\r\n"
            "\r\n"
            '{"label_names": {"liver": 1, "spleen": 2}}\r\n'
            f"--{b}\r\n"
            'Content-Disposition: form-data; name="image"; filename="ct_1.nrrd"\r\n'
            "Content-Type: application/octet-stream\r\n"
            "\r\n"
            "NRRD0004\nmask\r\n--x\r\n"
            f"--{b}--\r\n"
        ).encode()
    )
    assert answer.headers["content-length"] == str(len(answer.content))
    assert "transfer-encoding" not in answer.headers
    assert "content-encoding" not in answer.headers


@pytest.mark.parametrize(
    ("ext", "media"),
    [
        (".nrrd", "application/octet-stream"),
        (".nii", "application/octet-stream"),
        (".nii.gz", "application/octet-stream"),
        (".seg.nrrd", "application/octet-stream"),
        (".json", "application/json"),
        (".png", "image/png"),
    ],
)
def test_r23_r24_the_part_names_the_format_of_its_file(world: World, ext: str, media: str) -> None:
    answering(world, {}, ext)
    body = world.http.post(URL).content.decode("latin-1")
    assert f'filename="ct_1{ext}"\r\nContent-Type: {media}\r\n\r\n' in body


@pytest.mark.parametrize("image_id", ["case 7/CT – Köpf", "a;b=c", 'q"uote'])
def test_r24_the_file_name_is_bare_whatever_the_image_is_called(world: World, image_id: str) -> None:
    target = world.roots.studies / f"{image_id}.nii.gz"
    target.parent.mkdir(exist_ok=True)
    nifti(target)
    world.store.refresh()
    body = world.http.post("/infer/segmentation", params={"image": image_id}).content.decode("latin-1")
    assert re.search(r'filename="[A-Za-z0-9._-]+\.nrrd"\r\n', body)


def test_r25_without_a_mask_the_answer_is_json_alone(world: World) -> None:
    answering(world, {"prediction": [{"idx": 0, "label": "InBody", "score": 0.98}]}, "")
    answer = world.http.post(URL)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["prediction"][0]["label"] == "InBody"


def test_r26_r41_output_image_is_the_one_mask_file(world: World) -> None:
    answer = world.http.post(f"{URL}&output=image")
    assert answer.content == b"NRRD0004\nmask\r\n--x"
    assert answer.headers["content-disposition"] == 'attachment; filename="ct_1.nrrd"'
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.headers["etag"]
    assert answer.headers["last-modified"]


def test_r27_label_names_are_names_to_integers(world: World) -> None:
    for labels in (["liver", "spleen"], {"liver": 1.0, "spleen": "42"}, {"spleen": 7, "liver": 1}):
        answering(world, {"label_names": labels})
        assert world.http.post(f"{URL}&output=json").json()["label_names"] == {"liver": 1, "spleen": 2}


@pytest.mark.parametrize("wish", [True, False])
def test_r27_voxels_and_names_are_counted_alike_whatever_the_client_wishes(world: World, wish: bool) -> None:
    world.http.post(URL, data={"params": json.dumps({"restore_label_idx": wish})})
    assert world.engine.requests[0].params == {"restore_label_idx": False}


def test_r42_params_output_is_the_models_business(world: World) -> None:
    answer = world.http.post(URL, data={"params": '{"output": "json"}'})
    assert world.engine.requests[0].params == {"output": "json"}
    assert answer.headers["content-type"].startswith("multipart/form-data")


def test_output_json_gives_the_parameters_and_removes_the_mask(world: World) -> None:
    answering(world, {"latencies": {"total": 1.5}, "bad": float("nan"), "none": None})
    answer = world.http.post(f"{URL}&output=json")
    assert answer.json() == {"latencies": {"total": 1.5}, "bad": None}
    assert world.spool_is_empty()


def test_every_temporary_file_is_gone_after_the_answer(world: World) -> None:
    for output in ("all", "image", "json"):
        files = {"file": ("a.nii.gz", b"x"), "label": ("l.nii.gz", b"y")}
        assert world.http.post(f"/infer/segmentation?output={output}", files=files).status_code == 200
        assert world.spool_is_empty()


def test_the_version_and_the_saved_label_are_told(world: World) -> None:
    async def infer(request: InferRequest) -> InferAnswer:
        return InferAnswer(params={}, saved_label=("ct_1", "original"), model_version="3")

    world.engine.answer = infer
    answer = world.http.post(f"{URL}&output=json", data={"params": '{"save_label": true}'}).json()
    assert answer == {"saved": {"label": "ct_1", "tag": "original"}, "model_version": "3"}


def test_session_wins_over_file_wins_over_image(world: World, tmp_path: Path) -> None:
    session = world.http.put("/session/", files={"files": ("s.nii.gz", b"session")}).json()["session_id"]
    file = {"file": ("C:\\data\\f.nii.gz", b"upload")}
    seen: list[bytes | None] = []

    async def infer(request: InferRequest) -> InferAnswer:
        path = world.roots.resolve(request.image_file) if request.image_file else None
        assert path is None or path.name.endswith(".nii.gz")
        seen.append(path.read_bytes() if path else None)
        return InferAnswer(params={})

    world.engine.answer = infer
    world.http.post(f"{URL}&session_id={session}", files=file)
    world.http.post(URL, files=file)
    world.http.post(URL)
    assert seen == [b"session", b"upload", None]
    first, second, third = world.engine.requests
    assert (first.image_id, second.image_id, third.image_id) == (None, None, "ct_1")
    assert first.session is not None
    assert first.session["name"] == session


def test_a_session_kept_outside_the_studies_is_reached_too(make_world: Make, tmp_path: Path) -> None:
    world = make_world(session_path=tmp_path / "elsewhere")
    session = world.http.put("/session/", files={"files": ("s.nii.gz", b"session")}).json()["session_id"]

    async def infer(request: InferRequest) -> InferAnswer:
        assert request.image_file is not None
        assert request.image_file.root is Root.STATE
        assert world.roots.resolve(request.image_file).read_bytes() == b"session"
        return InferAnswer(params={"ok": True})

    world.engine.answer = infer
    assert world.http.post(f"/infer/segmentation?session_id={session}").json() == {"ok": True}
    assert world.spool_is_empty()


def test_an_upload_is_never_saved_as_a_label(world: World) -> None:
    world.http.post("/infer/segmentation", files={"file": ("a.nii.gz", b"x")}, data={"params": '{"save_label": true}'})
    assert world.engine.requests[0].params == {"save_label": False}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_raw_labels_get_the_grid_of_their_image(world: World, dtype: type) -> None:
    voxels = np.arange(np.prod(SHAPE), dtype=dtype).reshape(SHAPE)
    found: list[np.ndarray] = []

    async def infer(request: InferRequest) -> InferAnswer:
        assert request.label_file is not None
        volume = read_volume(world.roots.resolve(request.label_file))
        assert np.allclose(volume.grid.affine, AFFINE)
        found.append(np.asarray(volume.voxels).reshape(SHAPE))
        return InferAnswer(params={})

    world.engine.answer = infer
    answer = world.http.post(URL, files={"label": ("label.bin", voxels.tobytes(order="F"))})
    assert answer.status_code == 200, answer.text
    assert np.array_equal(found[0], voxels)
    assert world.spool_is_empty()


def test_a_raw_label_of_another_length_is_refused(world: World) -> None:
    answer = world.http.post(URL, files={"label": ("label.bin", b"x" * 7)})
    assert answer.status_code == 422
    assert "7 bytes" in answer.json()["detail"]
    assert world.spool_is_empty()


@pytest.mark.parametrize(
    ("params", "model", "expected"),
    [
        ({}, "segmentation", Priority.OPEN_IMAGE),
        ({"foreground": [[1, 2, 3]]}, "segmentation", Priority.CLICK),
        ({"foreground": []}, "segmentation", Priority.OPEN_IMAGE),
        ({}, "deepedit", Priority.CLICK),
    ],
)
def test_clicks_come_first(world: World, params: dict, model: str, expected: Priority) -> None:
    world.http.post(f"/infer/{model}?image=ct_1", data={"params": json.dumps(params)})
    assert world.engine.requests[0].priority is expected


@pytest.mark.parametrize(
    "params",
    [
        {"model": "other"},
        {"image": "/etc/passwd"},
        {"image": "ct_2"},
        {"session_id": "x"},
        {"label_file": "x"},
        {"image_path": "/etc/passwd"},
        {"label": "/etc/passwd"},
        {"label": {"path": "x"}},
        {"model_filename": "../../evil.pt"},
        {"network": "http://evil.example/x"},
        {"label_tag": "../../x"},
        {"label_tag": 3},
        {"result_extension": "/../../x.nrrd"},
        {"result_extension": 3},
        {"result_dtype": "object"},
    ],
)
def test_params_cannot_replace_what_the_route_says(world: World, params: dict) -> None:
    before = world.files()
    answer = world.http.post(URL, data={"params": json.dumps(params)})
    assert answer.status_code == 422
    assert len(answer.json()["detail"]) > 20
    assert not world.engine.requests
    assert world.files() == before


def test_params_may_repeat_the_route_and_name_a_label(world: World) -> None:
    params = {"model": "segmentation", "image": "ct_1", "label": "liver", "model_filename": "model.pt", "device": "cpu"}
    assert world.http.post(URL, data={"params": json.dumps(params)}).status_code == 200
    assert world.engine.requests[0].params == {"label": "liver", "model_filename": "model.pt", "device": "cpu"}


@pytest.mark.parametrize(
    ("url", "status", "says"),
    [
        ("/infer/none?image=ct_1", 404, "Known: deepedit, segmentation"),
        ("/infer/segmentation?image=unknown", 404, "unknown"),
        ("/infer/segmentation", 422, "image"),
        ("/infer/segmentation?image=../ct_1", 422, ".."),
        ("/infer/segmentation?image=/etc/passwd", 422, "plain name"),
        ("/infer/segmentation?image=.labelserver/x", 422, "keeps"),
        ("/infer/segmentation?image=a%00b", 422, "control"),
        ("/infer/segmentation?image=a%5Cb", 422, "backslash"),
        ("/infer/segmentation?session_id=../x", 422, "UUID"),
        ("/infer/segmentation?session_id=00000000-0000-4000-8000-000000000000", 404, "Session"),
        ("/infer/segmentation?image=ct_1&output=dicom_seg", 501, "not there yet"),
    ],
)
def test_bad_requests_get_a_sentence_and_reach_no_worker(world: World, url: str, status: int, says: str) -> None:
    before = world.files()
    answer = world.http.post(url)
    assert answer.status_code == status
    assert says in answer.json()["detail"]
    assert not world.engine.requests
    assert world.files() == before


def test_an_unknown_output_is_422(world: World) -> None:
    answer = world.http.post(f"{URL}&output=dicom_sr")
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", "output"]


def test_sessions_switched_off_are_406(make_world: Make) -> None:
    world = make_world(sessions=False)
    url = "/infer/segmentation?session_id=00000000-0000-4000-8000-000000000000"
    assert world.http.post(url).status_code == 406
    assert world.http.get("/session/x").json() == {"detail": world.http.put("/session/").json()["detail"]}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TaskFailed("The model raised ValueError."), 500),
        (WorkerDied("The worker ended."), 500),
        (DeviceMemoryFull("Use a smaller ROI."), 507),
        (QueueFull("Too many."), 429),
        (WorkerNotReady("The app is still loading."), 429),
        (UnreadableFile("The image is cut short."), 422),
    ],
)
def test_what_fails_in_the_worker_is_told_in_a_sentence(world: World, error: Exception, status: int) -> None:
    async def infer(request: InferRequest) -> InferAnswer:
        raise error

    world.engine.answer = infer
    answer = world.http.post(URL)
    assert answer.status_code == status
    assert answer.json() == {"detail": str(error)}
    assert ("retry-after" in answer.headers) == (status == 429)


@pytest.mark.parametrize("cut", [0, 10, 200])
def test_a_broken_upload_is_the_uploads_fault(world: World, tmp_path: Path, cut: int) -> None:
    rng = np.random.default_rng(0)
    whole = nifti(tmp_path / "a.nii.gz", rng.integers(0, 9999, (20, 20, 20), dtype=np.int16)).read_bytes()
    data = whole[: -cut or None] if cut != 10 else b"no image!!"

    async def infer(request: InferRequest) -> InferAnswer:
        raise TaskFailed("LoadImage failed.")

    world.engine.answer = infer
    answer = world.http.post("/infer/segmentation", files={"file": ("a.nii.gz", data)})
    assert answer.status_code == (500 if cut == 0 else 422)
    assert world.spool_is_empty()


def test_an_unforeseen_error_is_500_with_an_id_and_no_traceback(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def infer(request: InferRequest) -> InferAnswer:
        raise ZeroDivisionError("secret path /srv/x")

    world.engine.answer = infer
    answer = world.http.post(URL)
    assert answer.status_code == 500
    incident = re.search(r"id ([0-9a-f]{12})", answer.json()["detail"])
    assert incident is not None
    assert "secret" not in answer.text
    assert any(getattr(record, "incident", "") == incident.group(1) for record in caplog.records)


def test_a_caller_that_leaves_cancels_the_inference(world: World) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def infer(request: InferRequest) -> InferAnswer:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError("not cancelled")

    world.engine.answer = infer

    async def until() -> None:
        await begun.wait()

    assert world.http.leave_during("POST", "/infer/segmentation", "image=ct_1", until) == []
    assert cancelled.is_set()


def test_an_answer_that_comes_too_late_leaves_no_file(world: World) -> None:
    begun = asyncio.Event()

    async def infer(request: InferRequest) -> InferAnswer:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return world.engine.spooled(b"mask", ".nrrd", {})
        raise AssertionError("not cancelled")

    world.engine.answer = infer

    async def until() -> None:
        await begun.wait()

    world.http.leave_during("POST", "/infer/segmentation", "image=ct_1", until)
    assert world.spool_is_empty()


def test_info_does_not_wait_for_an_inference(world: World) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def infer(request: InferRequest) -> InferAnswer:
        begun.set()
        await go.wait()
        return InferAnswer(params={})

    world.engine.answer = infer
    running = world.http.portal.start_task_soon(_post, world)
    world.http.portal.call(begun.wait)
    assert world.http.get("/info/").status_code == 200
    assert not running.done()
    world.http.portal.call(_set, go)
    assert running.result(10).status_code == 200


async def _post(world: World):
    return await asyncio.to_thread(world.http.post, URL)


async def _set(event: asyncio.Event) -> None:
    event.set()


def test_a_model_unknown_before_the_first_description_is_the_engines_answer(make_world: Make) -> None:
    world = make_world(described_yet=False)
    assert world.http.post("/infer/whatever?image=ct_1").status_code == 200
    assert world.engine.requests[0].model == "whatever"


def test_a_model_name_with_a_plus_arrives(make_world: Make) -> None:
    model = {"Histogram+GraphCut": {"type": "scribbles"}}
    world = make_world(described({"models": model}))
    assert world.http.post("/infer/Histogram%2BGraphCut?image=ct_1").status_code == 200
    assert world.engine.requests[0].model == "Histogram+GraphCut"


def test_server_timing_tells_where_the_time_went(world: World) -> None:
    latencies = {
        "pre": 0.5,
        "infer": 0.25,
        "invert": 0.01,
        "post": 0.02,
        "write": 0.03,
        "total": 0.81,
        "transform": {"pre": {"LoadImaged": 0.4, "Spacingd": 0.1}},
    }
    answering(world, {"latencies": latencies})
    header = world.http.post(URL).headers["server-timing"]
    told = dict(part.split(";dur=") for part in header.split(", "))
    assert list(told) == ["queue", "load", "pre", "forward", "post", "encode", "total"]
    expected = {"queue": 0.0, "load": 400.0, "pre": 100.0, "forward": 250.0, "post": 30.0, "encode": 30.0}
    assert {name: float(told[name]) for name in expected} == expected
    answering(world, {})
    assert "forward;dur=" in world.http.post(URL).headers["server-timing"]


@pytest.mark.parametrize(("media", "codec"), [(MEDIA_TYPE_ZSTD, "zstd"), (MEDIA_TYPE_GZIP, "gzip")])
def test_a_box_is_asked_for_by_accept_and_carries_the_parameters(world: World, media: str, codec: str) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:3, 2, 1:] = 1
    box = encode_box(mask, changed_box(None, mask), codec=BoxCodec.ZSTD if codec == "zstd" else BoxCodec.GZIP)
    answering(world, {"label_names": {"liver": 1}, "memory_step": "full"}, EXTENSION, box)
    answer = world.http.post(URL, headers={"Accept": f"{media}, */*;q=0.1"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, media)
    assert world.engine.requests[-1].params["result_box"] == codec
    found = decode_box(answer.content, expected_shape=SHAPE)
    back = np.zeros(SHAPE, np.uint8)
    found.paste_into(back)
    assert np.array_equal(back, mask)
    assert found.params["label_names"] == {"liver": 1}
    assert found.params["memory_step"] == "full"
    assert not list(world.server.spool.glob("*"))


@pytest.mark.parametrize(
    ("accept", "codec"),
    [
        (f"{MEDIA_TYPE_ZSTD};q=0", None),
        (f"{MEDIA_TYPE_ZSTD};q=0.2, {MEDIA_TYPE_GZIP}", "gzip"),
        (f"{MEDIA_TYPE_GZIP.upper()} ; q=0.5,{MEDIA_TYPE_ZSTD};q=0.4", "gzip"),
        (f"{MEDIA_TYPE_ZSTD};q=much", None),
        ("", None),
    ],
)
def test_the_weights_of_accept_count(world: World, accept: str, codec: str | None) -> None:
    world.http.post(URL, headers={"Accept": accept})
    assert world.engine.requests[-1].params.get("result_box") == codec


def test_a_mask_that_is_saved_as_a_label_is_written_as_a_file_also_for_a_box(world: World, tmp_path: Path) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[1, 1, 1] = 1
    answering(world, {}, ".nii.gz", nifti(tmp_path / "own.nii.gz", mask).read_bytes())
    answer = world.http.post(
        URL, data={"params": json.dumps({"save_label": True})}, headers={"Accept": MEDIA_TYPE_ZSTD}
    )
    assert "result_box" not in world.engine.requests[-1].params
    assert decode_box(answer.content).voxels.tolist() == [[[1]]]


def test_a_task_that_writes_files_by_itself_is_answered_as_a_box_too(world: World, tmp_path: Path) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[0, 0, 0] = 7
    answering(world, {}, ".nii.gz", nifti(tmp_path / "own.nii.gz", mask).read_bytes())
    answer = world.http.post(URL, headers={"Accept": MEDIA_TYPE_ZSTD})
    assert decode_box(answer.content).voxels.tolist() == [[[7]]]


def test_a_caller_cannot_ask_for_a_box_in_its_parameters(world: World) -> None:
    answer = world.http.post(URL, data={"params": json.dumps({"result_box": "zstd"})})
    assert answer.status_code in (400, 422)
