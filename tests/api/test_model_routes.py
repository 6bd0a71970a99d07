"""``/model`` and ``/api/v1/models``: weights out, weights in, versions and which one is in use."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save as safetensors

from labelserver.contracts.model_store import Candidate
from tests.api.conftest import World


def pt_bytes() -> bytes:
    """The shape of what torch.save writes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("archive/version", b"3\n")
    return packed.getvalue()


def tensors() -> bytes:
    data: bytes = safetensors({"weight": np.ones((2, 3), np.float32)})
    return data


@pytest.fixture
def target(world: World) -> Path:
    """The file that the app's model reads; the lead says so."""
    path = world.roots.app / "model" / "segmentation.pt"

    def model_file(params: dict[str, object]) -> str | None:
        return str(path) if path.exists() or not params["validate"] else None

    world.engine.lead["model_file"] = model_file  # type: ignore[assignment]
    return path


def add(world: World, data: bytes, target: Path | None = None) -> int:
    file = world.server.spool / "model.pt"
    file.write_bytes(data)
    return world.server.model_store.add(Candidate("segmentation", (file,), publish_path=target))


@pytest.mark.parametrize("data", [pt_bytes(), tensors()])
def test_uploaded_weights_become_a_version_in_use(world: World, target: Path, data: bytes) -> None:
    answer = world.http.put(
        "/model/segmentation", files={"file": ("best.pt", data)}, headers={"X-Labelserver-Person": "Dr. K"}
    )
    assert answer.status_code == 200, answer.text
    checksum = "SHA256:" + hashlib.sha256(data).hexdigest()
    assert answer.json()["checksum"] == checksum
    assert target.read_bytes() == data
    assert world.http.get("/model/info/segmentation").json()["checksum"] == checksum
    download = world.http.get("/model/segmentation")
    assert download.content == data
    assert download.headers["content-disposition"] == 'attachment; filename="segmentation.pt"'
    (version,) = world.http.get("/api/v1/models/segmentation/versions").json()["versions"]
    assert (version["number"], version["current"], version["verdict"]) == (1, True, "published")
    assert "Dr. K" in version["reason"]
    assert world.spool_is_empty()


@pytest.mark.parametrize("kind", ["noise", "pickle", "cut", "zip", "empty", "header"])
def test_weights_that_cannot_be_read_are_refused(world: World, target: Path, kind: str) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.txt", b"x")
    data = {
        "noise": b"noise" * 100,
        "pickle": b"\x80\x02}q\x00.",
        "cut": tensors()[:-4],
        "zip": packed.getvalue(),
        "empty": b"",
        "header": (2**60).to_bytes(8, "little") + b"{}",
    }[kind]
    answer = world.http.put("/model/segmentation", files={"file": ("best.pt", data)})
    assert answer.status_code == 422
    assert isinstance(answer.json()["detail"], str)
    assert not target.exists()
    assert world.http.get("/api/v1/models").json() == {"models": []}
    assert world.spool_is_empty()


def test_a_model_without_weights_is_404(world: World, target: Path) -> None:
    for url in ("/model/segmentation", "/model/info/segmentation", "/model/none"):
        answer = world.http.get(url)
        assert answer.status_code == 404
        assert "Model File NOT Found" in answer.json()["detail"]
    assert world.http.delete("/model/segmentation").status_code == 404


def test_a_model_that_reads_no_file_takes_no_upload(world: World) -> None:
    world.engine.lead["model_file"] = lambda params: None
    answer = world.http.put("/model/segmentation", files={"file": ("a.pt", pt_bytes())})
    assert answer.status_code == 404
    assert "NOT configured" in answer.json()["detail"]


def test_weights_outside_the_app_are_not_replaced(world: World, tmp_path: Path) -> None:
    world.engine.lead["model_file"] = lambda params: str(tmp_path / "elsewhere.pt")
    assert world.http.put("/model/segmentation", files={"file": ("a.pt", pt_bytes())}).status_code == 404


def test_deleted_weights_are_only_put_aside(world: World, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(b"weights")
    assert world.http.delete("/model/segmentation").json() == {}
    assert not target.exists()
    (aside,) = target.parent.glob("segmentation.pt.*.deleted")
    assert aside.read_bytes() == b"weights"


def test_versions_are_listed_and_any_of_them_can_be_made_current(world: World) -> None:
    target = world.roots.app / "model" / "segmentation.pt"
    for data in (b"one", b"two"):
        world.server.model_store.decide("segmentation", add(world, data, target))
    assert world.http.get("/api/v1/models").json() == {
        "models": [{"model": "segmentation", "current": 2, "versions": 2}]
    }
    answer = world.http.post("/api/v1/models/segmentation/versions/1/publish", json={"reason": "two is worse"})
    assert answer.status_code == 200
    assert answer.json()["current"] is True
    assert answer.json()["reason"].startswith("two is worse")
    assert target.read_bytes() == b"one"
    assert [v["current"] for v in _versions(world)] == [True, False]
    assert world.http.post("/api/v1/models/segmentation/versions/2/publish").status_code == 200
    assert [v["current"] for v in _versions(world)] == [False, True]


def _versions(world: World) -> list[dict[str, object]]:
    answer = world.http.get("/api/v1/models/segmentation/versions")
    versions: list[dict[str, object]] = answer.json()["versions"]
    return versions


@pytest.mark.parametrize(
    ("method", "url", "body", "status"),
    [
        ("GET", "/api/v1/models/none/versions", None, 404),
        ("GET", "/api/v1/models/none/versions/1", None, 404),
        ("POST", "/api/v1/models/none/versions/1/publish", None, 404),
        ("POST", "/api/v1/models/none/versions/x/publish", None, 422),
        ("POST", "/api/v1/models/none/versions/1/publish", {"unknown": 1}, 422),
        ("GET", "/api/v1/models/..%2F..%2Fx/versions", None, 404),
    ],
)
def test_errors_are_problem_documents(world: World, method: str, url: str, body: object, status: int) -> None:
    content = None if body is None else json.dumps(body)
    answer = world.http.request(method, url, content=content)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]
