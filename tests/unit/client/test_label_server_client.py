"""The client against scripted answers: what it sends, what it makes of answers, and how it says no."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from labelserver.client import (
    AnswerUnclear,
    Job,
    JobFailed,
    JobState,
    LabelServerClient,
    NotBuilt,
    NothingThere,
    Refused,
    ServerBusy,
    ServerFailed,
    ServerUnreachable,
)

Handler = Callable[[httpx.Request], httpx.Response]

INFO = {
    "name": "Radiology",
    "version": "1",
    "labels": ["liver", "spleen"],
    "models": {
        "segmentation": {
            "type": "segmentation",
            "labels": {"liver": 1, "spleen": 2},
            "dimension": 3,
            "description": "organs",
            "config": {"device": ["cpu"]},
        },
        "old": {"type": "segmentation", "labels": ["a", "b"], "dimension": 2, "description": "", "config": {}},
    },
    "trainers": {"segmentation": {}},
    "strategies": {"random": {}, "first": {}},
    "scoring": {},
    "train_stats": {},
    "datastore": {"total": 5, "completed": 2, "label_tags": {}},
}

MASK = b"NRRD0004\r\n\r\n--not a boundary\x00\xff\r\n"
MULTIPART = (
    b'--b42\r\nContent-Disposition: form-data; name="params"\r\nContent-Type: application/json\r\n\r\n'
    b'{"label_names": {"liver": 1}, "latencies": {"total": 0.5}}\r\n'
    b'--b42\r\nContent-Disposition: form-data; name="image"; filename="../x/tmp1.nrrd"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n" + MASK + b"\r\n--b42--\r\n"
)


def client(handler: Handler, **options: str) -> LabelServerClient:
    return LabelServerClient("http://server/prefix/", transport=httpx.MockTransport(handler), **options)


def answering(document: object, status: int = 200, seen: list[httpx.Request] | None = None) -> Handler:
    def handle(request: httpx.Request) -> httpx.Response:
        request.read()
        if seen is not None:
            seen.append(request)
        return httpx.Response(status, content=json.dumps(document))

    return handle


def job(state: str, **more: object) -> dict[str, object]:
    return {
        "id": "7",
        "kind": "train",
        "task": "segmentation",
        "state": state,
        "person": "ada",
        "params": {},
        "created_ts": 1.0,
        "details": ["a line"],
        **more,
    }


STARTED = Job.model_validate(job("queued"))


def test_info_is_typed_and_shown_in_a_notebook() -> None:
    with client(answering(INFO)) as server:
        info = server.info()
        shown = server._repr_html_()
    assert info.models["segmentation"].labels == {"liver": 1, "spleen": 2}
    assert info.models["old"].labels == {"a": 1, "b": 2}
    assert (info.images, info.labeled) == (5, 2)
    assert info.strategies == ("random", "first")
    assert "2 of 5 labeled" in shown


def test_a_path_prefix_and_the_person_are_sent() -> None:
    seen: list[httpx.Request] = []
    with client(
        answering({"id": "img", "path": "/s/img.nii.gz", "name": "img.nii.gz"}, seen=seen), person="ada"
    ) as server:
        sample = server.next_sample("first", {"label_tag": "final"})
    assert sample is not None
    assert (sample.id, sample.name) == ("img", "img.nii.gz")
    assert seen[0].url.path == "/prefix/activelearning/first"
    assert seen[0].headers["X-Labelserver-Person"] == "ada"
    assert json.loads(seen[0].content) == {"client_id": "ada", "label_tag": "final"}


def test_next_sample_is_none_when_nothing_is_left() -> None:
    with client(answering({})) as server:
        assert server.next_sample() is None


def test_infer_splits_the_answer_into_params_and_a_mask_file(tmp_path: Path) -> None:
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        request.read()
        seen.append(request)
        return httpx.Response(200, content=MULTIPART, headers={"content-type": "multipart/form-data; boundary=b42"})

    with client(handle) as server:
        result = server.infer("segmentation", "a/b c", {"result_extension": ".nrrd"}, folder=tmp_path)
    assert result.mask == tmp_path / "tmp1.nrrd"
    assert result.mask.read_bytes() == MASK
    assert result.label_names == {"liver": 1}
    assert dict(seen[0].url.params) == {"image": "a/b c"}
    assert seen[0].headers["content-type"].startswith("multipart/form-data")
    assert b'name="params"' in seen[0].content
    assert b".nrrd" in seen[0].content


def test_infer_without_a_mask_gives_the_params_alone() -> None:
    with client(answering({"prediction": [{"label": "liver"}]})) as server:
        result = server.infer("classification", "img")
    assert result.mask is None
    assert result.params["prediction"] == [{"label": "liver"}]


def test_a_mask_in_the_default_folder_is_deleted_at_close() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=MULTIPART, headers={"content-type": "multipart/form-data; boundary=b42"})

    with client(handle) as server:
        mask = server.infer("segmentation", "img").mask
        assert mask is not None
        assert mask.exists()
    assert not mask.exists()


def test_an_answer_that_was_cut_short_is_an_error() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        return httpx.Response(
            200, content=MULTIPART[:-20], headers={"content-type": "multipart/form-data; boundary=b42"}
        )

    with client(handle) as server, pytest.raises(AnswerUnclear, match="cut short"):
        server.infer("segmentation", "img")


def test_an_upload_reports_progress_up_to_its_size(tmp_path: Path) -> None:
    file = tmp_path / "liver.nii.gz"
    file.write_bytes(b"x" * 200_000)
    seen: list[httpx.Request] = []
    progress: list[tuple[int, int | None]] = []
    with client(answering({"image": "liver"}, seen=seen)) as server:
        assert server.upload_image(file, on_bytes=lambda done, total: progress.append((done, total))) == "liver"
    assert progress[-1] == (200_000, 200_000)
    assert len(progress) > 1
    assert b'filename="liver.nii.gz"' in seen[0].content
    assert b"x" * 200_000 in seen[0].content


def test_save_label_sends_tag_and_params(tmp_path: Path) -> None:
    file = tmp_path / "mask.nii.gz"
    file.write_bytes(b"mask")
    seen: list[httpx.Request] = []
    with client(answering({"image": "img", "label": "img"}, seen=seen)) as server:
        server.save_label("img", file, params={"label_info": [{"name": "liver", "idx": 1}]})
        server.save_label("img", file, "original")
    assert dict(seen[0].url.params) == {"image": "img"}
    assert dict(seen[1].url.params) == {"image": "img", "tag": "original"}
    assert b'"label_info"' in seen[0].content


def test_download_takes_the_name_of_the_header_but_never_its_folders(tmp_path: Path) -> None:
    progress: list[tuple[int, int | None]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        headers = {"content-disposition": "attachment; filename*=utf-8''..%2Fl%C3%A9ber.nrrd"}
        return httpx.Response(200, content=b"voxels", headers=headers)

    with client(handle) as server:
        file = server.download_label("img", folder=tmp_path, on_bytes=lambda d, t: progress.append((d, t)))
    assert file == tmp_path / "léber.nrrd"
    assert file.read_bytes() == b"voxels"
    assert progress == [(6, 6)]
    assert [p.name for p in tmp_path.iterdir()] == ["léber.nrrd"]


def test_session_calls(tmp_path: Path) -> None:
    files = [tmp_path / "1.dcm", tmp_path / "2.dcm"]
    for path in files:
        path.write_bytes(b"dicom")
    seen: list[httpx.Request] = []
    answer = {"session_id": "u-1", "session_info": {"name": "1.dcm", "expiry": 3600}}
    with client(answering(answer, seen=seen)) as server:
        upload = server.create_session(files)
    assert (upload.session_id, upload.expiry_s) == ("u-1", 3600)
    assert seen[0].content.count(b'name="files"') == 2


@pytest.mark.parametrize(
    ("status", "error"),
    [(404, NothingThere), (422, Refused), (429, ServerBusy), (500, ServerFailed), (501, NotBuilt)],
)
def test_errors_carry_the_servers_sentence(status: int, error: type[Exception]) -> None:
    with client(answering({"detail": "Say it so."}, status)) as server, pytest.raises(error, match="Say it so"):
        server.info()


def test_a_request_that_does_not_validate_says_where() -> None:
    detail = [{"type": "missing", "loc": ["query", "image"], "msg": "Field required"}]
    with client(answering({"detail": detail}, 422)) as server, pytest.raises(Refused, match=r"query\.image: Field"):
        server.info()


def test_nobody_at_the_address_says_how_to_start_one() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with client(handle) as server, pytest.raises(ServerUnreachable, match="start_server"):
        server.info()


def test_something_else_at_the_address() -> None:
    with (
        client(lambda request: httpx.Response(200, text="<html>")) as server,
        pytest.raises(AnswerUnclear, match="label server"),
    ):
        server.info()


def test_starting_a_training_gives_its_job() -> None:
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        request.read()
        seen.append(request)
        return httpx.Response(
            200, json={"id": "7", "status": "SUBMITTED"} if request.method == "POST" else job("queued")
        )

    with client(handle) as server:
        started = server.train_start("segmentation", {"max_epochs": 3}, enqueue=True)
    assert (started.id, started.state) == ("7", JobState.QUEUED)
    assert json.loads(seen[0].content) == {"client_id": None, "max_epochs": 3}
    assert dict(seen[0].url.params) == {"enqueue": "true"}
    assert seen[1].url.path == "/prefix/api/v1/jobs/7"


def test_waiting_for_a_training_tells_every_new_state() -> None:
    states = [
        job("running", progress={"epoch": 1}),
        job("running", progress={"epoch": 1}),
        job("running", progress={"epoch": 2}),
        job("done", progress={"epoch": 2}),
    ]
    seen: list[Job] = []
    with client(lambda request: httpx.Response(200, json=states.pop(0))) as server:
        ended = server.wait_for_training(STARTED, seen.append, poll_s=0)
    assert [(j.state.value, j.progress["epoch"]) for j in seen] == [("running", 1), ("running", 2), ("done", 2)]
    assert ended.state is JobState.DONE


def test_waiting_for_a_training_that_fails_raises_its_reason() -> None:
    with (
        client(answering(job("failed", message="There is no label yet."))) as server,
        pytest.raises(JobFailed, match="no label yet"),
    ):
        server.wait_for_training(STARTED, poll_s=0)


def test_waiting_ends_at_the_deadline() -> None:
    with client(answering(job("running"))) as server, pytest.raises(TimeoutError, match="7"):
        server.wait_for_training(STARTED, poll_s=0, timeout_s=0)


def test_no_training_yet() -> None:
    with client(answering({"detail": "No Train Tasks Found"}, 404)) as server:
        assert server.train_status() is None
        assert not server.train_running()
        with pytest.raises(JobFailed):
            server.wait_for_training()


def test_stopping_when_nothing_runs_answers_none() -> None:
    with client(answering(None)) as server:
        assert server.train_stop() is None


def test_an_answer_of_another_shape_is_unclear() -> None:
    with client(answering({"jobs": [{"id": 1}]})) as server, pytest.raises(AnswerUnclear, match="JobList"):
        server.jobs()
