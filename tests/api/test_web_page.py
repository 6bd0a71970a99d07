"""``GET /``: the built page with its rules for browsers, or the words that say how to build it."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from labelserver.api import web_page
from tests.api.conftest import Make, World

INDEX = b'<!DOCTYPE html><script type="module" src="./assets/index-abc123.js"></script>'
SCRIPT = b"export const x = 1;\n" * 100


@pytest.fixture
def dist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "web_dist"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_bytes(INDEX)
    (folder / "assets" / "index-abc123.js").write_bytes(SCRIPT)
    (folder / "assets" / "index-abc123.css").write_bytes(b"body{}")
    (tmp_path / "secret.txt").write_text("not for you")
    monkeypatch.setattr(web_page, "WEB_DIST", folder)
    return folder


def test_the_page_is_never_kept_and_may_load_from_here_alone(dist: Path, world: World) -> None:
    answer = world.http.get("/")
    assert (answer.status_code, answer.content) == (200, INDEX)
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["cache-control"] == "no-cache"
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'self'"
    assert all(value in ("'self'", "'none'") for value in policy.values())
    assert answer.headers["x-content-type-options"] == "nosniff"
    again = world.http.get("/", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    (dist / "index.html").write_bytes(INDEX + b"<!-- new -->")
    assert world.http.get("/", headers={"If-None-Match": answer.headers["etag"]}).status_code == 200


@pytest.mark.parametrize(("name", "media"), [("index-abc123.js", "text/javascript"), ("index-abc123.css", "text/css")])
def test_its_files_are_kept_for_ever_with_the_right_type(dist: Path, world: World, name: str, media: str) -> None:
    answer = world.http.get(f"/assets/{name}")
    assert answer.content == (dist / "assets" / name).read_bytes()
    assert answer.headers["content-type"].startswith(media)
    assert "immutable" in answer.headers["cache-control"]
    assert world.http.head(f"/assets/{name}").status_code == 200


def test_its_files_are_packed_for_other_machines(dist: Path, make_world: Make) -> None:
    far = make_world(address="10.0.0.7", insecure=True)
    answer = far.http.get("/assets/index-abc123.js", headers={"Accept-Encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.content == SCRIPT
    assert int(answer.headers["content-length"]) == len(gzip.compress(SCRIPT, 9, mtime=0))


@pytest.mark.parametrize(
    "name", ["none.js", "../index.html", "../../secret.txt", "%2e%2e/%2e%2e/secret.txt", "/etc/passwd", ""]
)
def test_nothing_else_is_served(dist: Path, world: World, name: str) -> None:
    answer = world.http.get(f"/assets/{name}")
    assert answer.status_code == 404
    assert b"not for you" not in answer.content


def test_without_a_page_the_root_says_how_to_build_it(
    tmp_path: Path, make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_page, "WEB_DIST", tmp_path / "none")
    world = make_world()
    answer = world.http.get("/")
    assert answer.status_code == 200
    for words in ("python hatch_build.py", "/docs", "/info/", "README"):
        assert words in answer.text
    assert world.http.get("/assets/x.js").status_code == 404
    assert world.http.get("/favicon.ico").status_code == 204
    assert world.http.get("/info/").status_code == 200


def test_a_prefix_of_the_old_routes_keeps_its_own_root(dist: Path, make_world: Make) -> None:
    world = make_world(api_prefix="/label")
    assert world.http.get("/").content == INDEX
    assert "/label/info/" in world.http.get("/label/").text
    assert world.http.get("/api/v1/page").json()["peer_prefix"] == "/label"


def test_the_page_learns_who_is_calling(world: World) -> None:
    nobody = world.http.get("/api/v1/page").json()
    assert (nobody["anonymous"], nobody["person"]) == (True, "anonymous@127.0.0.1")
    ada = world.http.get("/api/v1/page", headers={"Cookie": "labelserver_person=Ada%20L%C3%B6we"}).json()
    assert (ada["anonymous"], ada["person"], ada["peer_prefix"]) == (False, "Ada Löwe", "")
