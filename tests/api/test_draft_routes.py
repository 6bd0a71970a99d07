"""Drafts keep unfinished work apart from labels, and each person's from the others'."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from labelserver.datastore import drafts
from labelserver.domain.ids import FINAL, ImageId
from tests.api.conftest import World, label_bytes

URL = "/api/v1/images/ct_1/drafts"
ADA = {"X-Labelserver-Person": "Ada"}
BOB = {"X-Labelserver-Person": "Bob"}


def put(world: World, content: bytes, who: dict[str, str] = ADA, draft: str = "mine", query: str = "") -> object:
    files, data = {"label": ("d.nii.gz", content)}, {"params": json.dumps({"based_on": 3})}
    return world.http.put(f"{URL}/{draft}{query}", files=files, data=data, headers=who)


def test_a_draft_is_kept_replaced_and_dropped(world: World, tmp_path: Path) -> None:
    first = put(world, b"first").json()  # type: ignore[attr-defined]
    assert (first["size_bytes"], first["info"], first["tag"]) == (5, {"based_on": 3}, "final")
    put(world, b"second")
    answer = world.http.get(f"{URL}/mine", headers=ADA)
    assert (answer.content, answer.headers["content-disposition"]) == (b"second", 'attachment; filename="ct_1.nii.gz"')
    assert world.http.get(f"{URL}/{first['id']}", headers=ADA).content == b"second"
    assert world.http.get(f"{URL}/mine/info", headers=ADA).json()["size_bytes"] == 6
    assert sum(1 for p in (world.roots.state / "drafts").rglob("*") if p.is_file()) == 2
    assert world.http.delete(f"{URL}/mine", headers=ADA).json() == {}
    assert world.http.delete(f"{URL}/mine", headers=ADA).status_code == 200
    assert world.http.get(f"{URL}/mine", headers=ADA).status_code == 404


def test_a_draft_is_no_label(world: World, tmp_path: Path) -> None:
    put(world, label_bytes(tmp_path))
    world.store.refresh()
    assert world.store.status()["completed"] == 0
    assert world.http.get("/datastore/label?label=ct_1&tag=final").status_code == 404
    assert world.http.get("/api/v1/images/ct_1/labels/final/revisions").json() == {"revisions": []}


def test_another_persons_draft_is_not_there(world: World) -> None:
    ada = put(world, b"hers").json()["id"]  # type: ignore[attr-defined]
    for method in ("GET", "DELETE", "PUT"):
        files = {"label": ("d.nii.gz", b"x")} if method == "PUT" else None
        assert world.http.request(method, f"{URL}/{ada}", headers=BOB, files=files).status_code == 404
    assert world.http.get(f"{URL}/mine", headers=BOB).status_code == 404
    assert world.http.get(f"{URL}/mine", headers=ADA).content == b"hers"


def test_drafts_of_two_tags_do_not_meet(world: World) -> None:
    put(world, b"final")
    put(world, b"second reading", query="?tag=final-2")
    assert world.http.get(f"{URL}/mine", headers=ADA).content == b"final"
    assert world.http.get(f"{URL}/mine?tag=final-2", headers=ADA).content == b"second reading"
    world.http.delete(f"{URL}/mine", headers=ADA)
    assert world.http.get(f"{URL}/mine?tag=final-2", headers=ADA).content == b"second reading"


def test_a_draft_outlives_the_server(world: World) -> None:
    put(world, b"work of an hour")
    kept = drafts.Drafts(world.roots.state)
    assert kept.get(ImageId("ct_1"), FINAL, "Ada").file.read_bytes() == b"work of an hour"


def test_what_is_too_large_or_no_label_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    put(world, b"good")
    monkeypatch.setattr(drafts, "MAX_DRAFT_BYTES", 10)
    assert put(world, b"x" * 11).status_code == 413  # type: ignore[attr-defined]
    assert world.http.put(f"{URL}/mine", files={"label": ("d.exe", b"x")}, headers=ADA).status_code == 422
    assert world.http.put(f"{URL}/mine", headers=ADA).status_code == 422
    none = world.http.put("/api/v1/images/none/drafts/mine", files={"label": ("d.nii.gz", b"x")}, headers=ADA)
    assert none.status_code == 404
    assert world.http.get(f"{URL}/mine", headers=ADA).content == b"good"


def test_a_damaged_draft_is_as_if_it_were_not_there(world: World) -> None:
    put(world, b"good")
    (named,) = (world.roots.state / "drafts").rglob("*.draft")
    named.write_bytes(b"{")
    assert world.http.get(f"{URL}/mine", headers=ADA).status_code == 404
    put(world, b"again")
    assert world.http.get(f"{URL}/mine", headers=ADA).content == b"again"
