"""``/session``: uploads for one-off inference (R-39)."""

from __future__ import annotations

import io
import os
import re
import zipfile

import pytest

from tests.api.conftest import Make, World

UNKNOWN = "00000000-0000-4000-8000-000000000000"


def upload(world: World, data: bytes = b"voxels", name: str = "/home/me/scan.nii.gz", query: str = "") -> str:
    answer = world.http.put(f"/session/{query}", files={"files": (name, data)}, data={"client_id": "me"})
    assert answer.status_code == 200, answer.text
    session_id: str = answer.json()["session_id"]
    return session_id


def expire(world: World, session_id: str) -> None:
    os.utime(world.server.settings.upload_dir / session_id / "upload.json", (1, 1))


def test_a_session_lives_and_ends(world: World) -> None:
    session_id = upload(world)
    assert re.fullmatch(r"[0-9a-f-]{36}", session_id)
    info = world.http.get(f"/session/{session_id}").json()
    assert set(info) >= {"name", "path", "image", "meta", "create_ts", "last_access_ts", "expiry"}
    assert str(world.roots.studies) not in str(info)
    image = world.http.get(f"/session/{session_id}?image=true")
    assert image.content == b"voxels"
    assert image.headers["content-disposition"] == 'attachment; filename="scan.nii.gz"'
    assert world.http.delete(f"/session/{session_id}").json() == info
    answer = world.http.get(f"/session/{session_id}")
    assert answer.status_code == 404
    assert answer.json()["detail"].startswith(f"Session ({session_id}) Not Found")
    assert world.spool_is_empty()


def test_r39_an_expired_id_of_ours_is_an_empty_object_and_others_are_404(world: World) -> None:
    session_id = upload(world)
    expire(world, session_id)
    for _ in range(2):
        answer = world.http.get(f"/session/{session_id}?update_ts=true")
        assert (answer.status_code, answer.json()) == (200, {})
    assert world.http.get(f"/session/{UNKNOWN}").status_code == 404
    inferred = world.http.post(f"/infer/segmentation?session_id={session_id}")
    assert inferred.status_code == 404
    assert "expired" in inferred.json()["detail"]


def test_inference_puts_off_the_end(world: World) -> None:
    session_id = upload(world)
    stamp = world.server.settings.upload_dir / session_id / "upload.json"
    before = world.server.uploads.get(session_id, use=False).last_access_ts - 100
    os.utime(stamp, (before, before))
    world.http.get(f"/session/{session_id}")
    assert stamp.stat().st_mtime == before
    world.http.post(f"/infer/segmentation?session_id={session_id}")
    assert stamp.stat().st_mtime > before


def test_an_archive_becomes_a_series(world: World) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in ("../../a.dcm", "b.dcm"):
            archive.writestr(name, b"slice")
    session_id = upload(world, packed.getvalue(), "series.zip", "?uncompress=true&expiry=60")
    image = world.server.uploads.get(session_id).image
    assert sorted(p.name for p in image.iterdir()) == ["000000.dcm", "000001.dcm"]
    assert world.http.get(f"/session/{session_id}").json()["expiry"] == 60
    assert world.http.get(f"/session/{session_id}?image=true").status_code == 404


@pytest.mark.parametrize(
    ("method", "url", "status"),
    [
        ("GET", "/session/..%2F..%2Fetc", 404),
        ("GET", "/session/abc", 422),
        ("DELETE", "/session/abc", 422),
        ("DELETE", f"/session/{UNKNOWN}", 404),
        ("PUT", "/session/", 422),
        ("PUT", "/session/?expiry=-1", 422),
        ("PUT", "/session/?uncompress=maybe", 422),
    ],
)
def test_bad_requests_are_refused(world: World, method: str, url: str, status: int) -> None:
    before = world.files()
    answer = world.http.request(method, url)
    assert answer.status_code == status
    assert answer.json()["detail"]
    assert world.files() == before


@pytest.mark.parametrize("data", [b"", b"no archive"])
def test_a_bad_archive_is_refused_and_leaves_nothing(world: World, data: bytes) -> None:
    before = world.files()
    answer = world.http.put("/session/?uncompress=true", files={"files": ("a.zip", data)})
    assert answer.status_code == 422
    assert world.files() == before
    assert world.spool_is_empty()


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
def test_sessions_switched_off_are_406(make_world: Make, method: str) -> None:
    world = make_world(sessions=False)
    answer = world.http.request(method, "/session/" if method == "PUT" else f"/session/{UNKNOWN}")
    assert answer.status_code == 406
    assert answer.json()["detail"].startswith("Session Feature is Not Enabled")
