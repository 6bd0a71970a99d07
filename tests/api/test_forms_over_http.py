"""Bodies as real clients send them (R-01 to R-06), and bodies that mean harm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from labelserver.api import forms
from labelserver.domain.jobs import JobKind
from tests.api.conftest import Make, World, nifti


def multipart(parts: list[tuple[str, str | None, bytes]], *, end: bytes = b"\r\n", part_type: str = "null") -> bytes:
    """(field, file name or None, content); every file part claims the type `part_type`."""
    body = b""
    for field, name, content in parts:
        extra = f'; filename="{name}"' if name is not None else ""
        body += f'--B$_x\r\nContent-Disposition: form-data; name="{field}"{extra}\r\n'.encode()
        body += f"Content-Type: {part_type}\r\n".encode() if name is not None else b""
        body += b"\r\n" + content + b"\r\n"
    return body + b"--B$_x--" + end


def send(world: World, method: str, url: str, body: bytes):
    return world.http.request(method, url, content=body, headers={"Content-Type": "multipart/form-data; boundary=B$_x"})


def test_r01_a_json_body_needs_no_content_type(world: World) -> None:
    answer = world.http.post("/train/segmentation", content=b'{"max_epochs": 3}')
    assert answer.status_code == 200
    assert answer.json()["request"] == {"model": "segmentation", "max_epochs": 3}
    assert "content-type" not in answer.request.headers


def test_r02_text_parts_may_be_larger_than_one_mebibyte(world: World) -> None:
    params = {"foreground": [[n % 6, n % 5, n % 4] for n in range(200_000)]}
    text = json.dumps(params).encode()
    assert len(text) > 2**20
    answer = send(world, "POST", "/infer/segmentation?image=ct_1&output=json", multipart([("params", None, text)]))
    assert answer.status_code == 200
    assert world.engine.requests[0].params == params


def test_r03_more_than_a_thousand_files_are_one_session(world: World) -> None:
    body = multipart([("files", f"slice{n}.dcm", b"x") for n in range(1_200)])
    answer = send(world, "PUT", "/session/", body)
    assert answer.status_code == 200
    assert len(list(world.server.uploads.get(answer.json()["session_id"]).image.iterdir())) == 1_200


@pytest.mark.parametrize("name", [r"C:\Users\Ärztin\new.nii.gz", "/home/me/data/new.nii.gz", "new.nii.gz"])
def test_r04_of_an_upload_name_only_the_base_name_is_used(world: World, tmp_path: Path, name: str) -> None:
    content = nifti(tmp_path / "made.nii.gz").read_bytes()
    answer = send(world, "PUT", "/datastore/image", multipart([("file", name.replace("\\", "\\\\"), content)]))
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"image": "new"}
    assert world.http.get("/datastore/image?image=new").content == content


@pytest.mark.parametrize("end", [b"\r\n", b""])
def test_r05_part_types_and_the_last_line_break_do_not_matter(world: World, tmp_path: Path, end: bytes) -> None:
    content = nifti(tmp_path / "made.nii.gz").read_bytes()
    answer = send(world, "PUT", "/session/", multipart([("files", "a.nii.gz", content)], end=end, part_type="null"))
    assert answer.status_code == 200
    assert world.server.uploads.get(answer.json()["session_id"]).image.read_bytes() == content


def test_r06_success_is_exactly_200(world: World) -> None:
    for answer in (
        world.http.post("/train/segmentation"),
        world.http.delete("/train/"),
        world.http.put("/datastore/image/info?image=ct_1", data={"info": "{}"}),
        world.http.delete("/datastore/label?id=ct_1&tag=none"),
    ):
        assert answer.status_code == 200


def test_a_body_that_ends_early_is_refused_and_leaves_nothing(world: World) -> None:
    body = multipart([("file", "a.nii.gz", b"x" * 1000)])[:-30]
    before = world.files()
    answer = send(world, "PUT", "/datastore/image", body)
    assert answer.status_code == 422
    assert "cut short" in answer.json()["detail"]
    assert world.spool_is_empty()
    assert world.files() == before


def test_more_bytes_than_allowed_are_413_and_leave_nothing(make_world: Make) -> None:
    world = make_world(max_upload_bytes=10_000)
    answer = send(world, "PUT", "/session/", multipart([("files", "a.nii.gz", b"x" * 20_000)]))
    assert answer.status_code == 413
    assert "LABELSERVER_MAX_UPLOAD_BYTES" in answer.json()["detail"]
    assert world.spool_is_empty()


def test_a_declared_length_beyond_the_limit_is_refused_before_it_is_read(make_world: Make) -> None:
    world = make_world(max_upload_bytes=10_000)
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": str(2**40)}
    answer = world.http.put("/session/", content=b"--x", headers=headers)
    assert answer.status_code == 413


@pytest.mark.parametrize("text", ["{", "[1]", '"a"', "NaN", '{"a": NaN}', "\x00", "[" * 100_000])
def test_params_that_are_no_json_object_are_422(world: World, text: str) -> None:
    answer = world.http.post("/infer/segmentation?image=ct_1", data={"params": text})
    assert answer.status_code == 422
    assert "params" in answer.json()["detail"]
    assert not world.engine.requests


@pytest.mark.parametrize("body", [b"{", b"[1]", b"\xff"])
def test_a_body_that_is_no_json_object_is_422_and_starts_nothing(world: World, body: bytes) -> None:
    answer = world.http.post("/train/segmentation", content=body)
    assert answer.status_code == 422
    assert not world.engine.jobs.list(JobKind.TRAIN)


def test_a_missing_boundary_is_422(world: World) -> None:
    answer = world.http.put("/session/", content=b"x", headers={"Content-Type": "multipart/form-data"})
    assert answer.status_code == 422


def test_another_kind_of_body_is_422(world: World) -> None:
    answer = world.http.post("/infer/segmentation?image=ct_1", json={"a": 1})
    assert answer.status_code == 422
    assert "multipart" in answer.json()["detail"]


def test_text_parts_have_a_limit_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "TEXT_LIMIT_BYTES", 1_000)
    answer = send(world, "POST", "/infer/segmentation?image=ct_1", multipart([("params", None, b" " * 2_000)]))
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.b.nii.gz", ".nii.gz"),
        ("X.NRRD", ".NRRD"),
        ("seg.seg.nrrd", ".seg.nrrd"),
        ("../../a.png", ".png"),
        ("no_extension", ""),
        ("evil.p\u00fcg", ""),
        ("a./../b", ""),
        ("", ""),
    ],
)
def test_the_extension_of_an_upload_is_a_plain_one(name: str, expected: str) -> None:
    assert forms.extension_of(name) == expected
