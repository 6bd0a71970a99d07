"""Reviews over HTTP, what trainings may learn from, and readers who do not see each other's labels."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.conftest import World, label_bytes
from tests.api.test_queue_routes import ask, lease_verb, rules, submit

REVIEWER = {"person": "rita", "roles": ["reviewer"]}


def decide(world: World, person: str, image: str, decision: str, tag: str = "final", **more: Any) -> httpx.Response:
    return world.http.post(
        f"/api/v1/images/{image}/labels/{tag}/review",
        json={"decision": decision, **more},
        headers={"X-Labelserver-Person": person},
    )


def stage(world: World, image: str) -> str:
    return str(world.http.get(f"/api/v1/images/{image}").json()["work"]["stage"])


def trained_on(world: World) -> list[str]:
    return sorted(Path(case["image"]).name.partition(".")[0] for case in world.store.datalist())


def test_a_label_is_returned_done_again_and_approved(world: World, tmp_path: Path) -> None:
    rules(world, overlap_share=0, members=[REVIEWER])
    lease = ask(world, "anna", strategy="first")
    submit(world, "anna", "ct_1", tmp_path)
    waits = world.http.get("/api/v1/review", params={"person": "anna"}).json()["items"]
    assert [(item["image"], item["tag"], item["state"], item["review"]) for item in waits] == [
        ("ct_1", "final", "submitted", None)
    ]
    assert trained_on(world) == ["ct_1"]
    returned = decide(world, "rita", "ct_1", "return", comment="the tip is missing")
    assert (returned.status_code, returned.json()["verdict"], returned.json()["revision"]) == (200, "returned", 1)
    assert (stage(world, "ct_1"), trained_on(world)) == ("returned", [])
    assert ask(world, "bea")["image"]["id"] == "ct_2", "it is its author's again first"
    again = ask(world, "anna")
    assert again["image"]["id"] == "ct_1"
    assert again["lease"]["id"] != lease["lease"]["id"]
    assert again["returned"] == {"tag": "final", "revision": 1, "comment": "the tip is missing"}
    assert "the tip is missing" in again["reason"]["why"]
    submit(world, "anna", "ct_1", tmp_path)
    assert stage(world, "ct_1") == "submitted"
    assert decide(world, "rita", "ct_1", "approve", revision=1).status_code == 412
    assert decide(world, "rita", "ct_1", "approve", revision=2).status_code == 200
    assert (stage(world, "ct_1"), trained_on(world)) == ("approved", ["ct_1"])
    told = world.http.get("/api/v1/images/ct_1/labels/final/reviews").json()["reviews"]
    assert [(r["revision"], r["verdict"], r["reviewer"]) for r in told] == [
        (1, "returned", "rita"),
        (2, "approved", "rita"),
    ]
    logged = [e.act for e in world.store.audit_log(20) if e.act.action == "review"]
    assert [(a.person, a.revision, a.detail["verdict"]) for a in logged] == [
        ("rita", 1, "returned"),
        ("rita", 2, "approved"),
    ]
    assert not world.http.get("/api/v1/review").json()["items"]
    assert len(world.http.get("/api/v1/review", params={"state": "approved"}).json()["items"]) == 1


def test_trainings_use_what_the_project_says(world: World, tmp_path: Path) -> None:
    rules(world, overlap_share=0, approved_only=True)
    for image in ("ct_1", "ct_2"):
        submit(world, "anna", image, tmp_path)
    assert trained_on(world) == []
    decide(world, "bea", "ct_1", "approve")
    assert trained_on(world) == ["ct_1"]
    packed = zipfile.ZipFile(io.BytesIO(world.http.get("/datastore/dataset").content)).namelist()
    assert sorted(packed) == ["image/ct_1.nii.gz", "label/ct_1.nii.gz", "metadata.json"]
    rules(world, approved_only=False)
    assert trained_on(world) == ["ct_1", "ct_2"]
    world.http.post("/api/v1/images/ct_2/flag", json={"reason": "not this patient"})
    assert trained_on(world) == ["ct_1"]


@pytest.mark.parametrize(
    ("person", "decision", "more", "code", "name"),
    [
        ("anna", "approve", {}, 403, "NotYourRole"),
        ("sam", "approve", {}, 403, "NotYourRole"),
        ("rita", "return", {}, 422, "InvalidParams"),
        ("rita", "maybe", {}, 422, "InvalidParams"),
        ("rita", "approve", {"revision": 7}, 412, "LabelChanged"),
        ("rita", "approve", {"tag": "original"}, 422, "InvalidParams"),
        ("rita", "approve", {"image": "ct_2"}, 404, "LabelNotFound"),
    ],
)
def test_reviews_that_cannot_be_change_nothing(
    world: World, tmp_path: Path, person: str, decision: str, more: dict[str, Any], code: int, name: str
) -> None:
    rules(world, overlap_share=0, members=[REVIEWER, {"person": "sam", "roles": ["reviewer"]}])
    submit(world, "sam", "ct_1", tmp_path)
    answer = decide(world, person, more.pop("image", "ct_1"), decision, **more)
    assert (answer.status_code, answer.json()["code"]) == (code, name)
    assert stage(world, "ct_1") == "submitted"


BLIND = (
    ("GET", "/datastore/label?label=ct_1&tag=reader_1"),
    ("HEAD", "/datastore/label?label=ct_1&tag=reader_1"),
    ("GET", "/datastore/label/info?label=ct_1&tag=reader_1"),
    ("DELETE", "/datastore/label?id=ct_1&tag=reader_1"),
    ("GET", "/api/v1/images/ct_1/labels/reader_1"),
    ("GET", "/api/v1/images/ct_1/labels/reader_1?annotated=mask"),
    ("GET", "/api/v1/images/ct_1/labels/reader_1/box"),
    ("GET", "/api/v1/images/ct_1/labels/reader_1/revisions"),
    ("GET", "/api/v1/images/ct_1/labels/reader_1/revisions/1"),
    ("GET", "/api/v1/images/ct_1/labels/reader_1/revisions/1/file"),
    ("POST", "/api/v1/images/ct_1/labels/reader_1/revisions/1/restore"),
    ("GET", "/api/v1/images/ct_1/labels/reader_1/diff?from=1&to=1"),
    ("GET", "/api/v1/images/ct_1/labels/reader_1/reviews"),
)


@pytest.mark.parametrize(("method", "url"), BLIND)
def test_readers_do_not_see_each_other_before_they_submit(world: World, tmp_path: Path, method: str, url: str) -> None:
    rules(world, overlap_share=1, overlap_readers=2)
    for person in ("anna", "bea"):
        ask(world, person, strategy="first")
    submit(world, "anna", "ct_1", tmp_path)
    for person, allowed in (("bea", False), ("stranger", False), ("anna", True)):
        if method in ("DELETE", "POST") and allowed:
            continue
        answer = world.http.request(method, url, headers={"X-Labelserver-Person": person})
        assert (answer.status_code != 403) is allowed, (person, answer.status_code, answer.text)
    submit(world, "bea", "ct_1", tmp_path)
    answer = world.http.request(method, url, headers={"X-Labelserver-Person": "bea"})
    assert answer.status_code != 403


def test_whole_store_answers_hide_readings(world: World, tmp_path: Path) -> None:
    rules(world, overlap_share=1, overlap_readers=2)
    for person in ("anna", "bea"):
        ask(world, person, strategy="first")
    submit(world, "anna", "ct_1", tmp_path)

    def labels(person: str) -> list[str]:
        answer = world.http.get("/datastore/", params={"output": "all"}, headers={"X-Labelserver-Person": person})
        return list(answer.json()["objects"]["ct_1"]["labels"])

    assert (labels("bea"), labels("anna")) == ([], ["reader_1"])
    listed = world.http.get("/api/v1/review", headers={"X-Labelserver-Person": "bea"}).json()["items"]
    assert listed == []
    submit(world, "rita", "ct_2", tmp_path)
    packed = zipfile.ZipFile(
        io.BytesIO(world.http.get("/datastore/dataset", headers={"X-Labelserver-Person": "bea"}).content)
    )
    assert "reader_1" not in packed.read("metadata.json").decode()


def test_named_reviewers_see_readings_and_others_wait(world: World, tmp_path: Path) -> None:
    rules(world, overlap_share=1, overlap_readers=2, members=[REVIEWER])
    for person in ("anna", "bea"):
        ask(world, person, strategy="first")
    submit(world, "anna", "ct_1", tmp_path)
    url = "/api/v1/images/ct_1/labels/reader_1"
    seen = {
        person: world.http.get(url, headers={"X-Labelserver-Person": person}).status_code
        for person in ("rita", "bea", "other")
    }
    assert seen == {"rita": 200, "bea": 403, "other": 403}
    submit(world, "bea", "ct_1", tmp_path)
    assert world.http.get(url, headers={"X-Labelserver-Person": "other"}).status_code == 200


def test_nobody_writes_over_anothers_reading(world: World, tmp_path: Path) -> None:
    rules(world, overlap_share=1, overlap_readers=2)
    for person in ("anna", "bea"):
        ask(world, person, strategy="first")
    submit(world, "anna", "ct_1", tmp_path)
    submit(world, "bea", "ct_1", tmp_path, tag="reader_1")
    assert [r.provenance.person for r in world.store.revisions("ct_1", "reader_1")] == ["anna"]  # type: ignore[arg-type]
    assert [r.provenance.person for r in world.store.revisions("ct_1", "reader_2")] == ["bea"]  # type: ignore[arg-type]


def test_a_returned_reading_goes_back_to_its_reader(world: World, tmp_path: Path) -> None:
    rules(world, overlap_share=1, overlap_readers=2, members=[REVIEWER])
    for person in ("anna", "bea"):
        ask(world, person, strategy="first")
        submit(world, person, "ct_1", tmp_path)
    assert decide(world, "rita", "ct_1", "return", "reader_2", comment="again").status_code == 200
    assert stage(world, "ct_1") == "draft"
    assert ask(world, "anna", strategy="first")["image"]["id"] == "ct_2"
    again = ask(world, "bea", strategy="first")
    assert (again["image"]["id"], again["lease"]["tag"]) == ("ct_1", "reader_2")
    submit(world, "bea", "ct_1", tmp_path)
    assert stage(world, "ct_1") == "submitted"


def test_the_part_that_was_asked_for_is_what_was_annotated(world: World, tmp_path: Path) -> None:
    rules(world, overlap_share=0)

    async def lead(method: str, params: Any) -> Any:
        return {"id": "ct_1", "roi": {"kind": "slices", "axis": 2, "slices": [1, 2]}, "why": "the least sure slices"}

    world.engine.call_lead = lead  # type: ignore[method-assign, assignment]
    given = ask(world, "anna", strategy="own")
    assert given["roi"] == {"kind": "slices", "axis": 2, "slices": [1, 2]}
    assert given["roi_on_grid"] == {"kind": "slices", "axis": 2, "slices": [1, 2]}
    assert given["reason"]["why"] == "the least sure slices"
    submit(world, "anna", "ct_1", tmp_path)
    (revision,) = world.http.get("/api/v1/images/ct_1/labels/final/revisions").json()["revisions"]
    assert revision["annotated"]["region"] == given["roi"]


def test_a_part_that_the_image_does_not_have_costs_no_label(world: World, tmp_path: Path) -> None:
    rules(world, overlap_share=0)
    asked: list[Any] = [{"kind": "slices", "axis": 2, "slices": [99]}, {"kind": "circle"}]

    async def lead(method: str, params: Any) -> Any:
        return {"id": "ct_1", "roi": asked[0]}

    world.engine.call_lead = lead  # type: ignore[method-assign, assignment]
    assert ask(world, "anna", strategy="own")["roi"] == asked[0]
    submit(world, "anna", "ct_1", tmp_path)
    (revision,) = world.http.get("/api/v1/images/ct_1/labels/final/revisions").json()["revisions"]
    assert revision["annotated"]["region"] == {"kind": "whole"}
    asked.pop(0)
    answer = world.http.post("/api/v1/queue/next", json={"strategy": "own"}, headers={"X-Labelserver-Person": "bea"})
    assert (answer.status_code, answer.json()["code"]) == (500, "TaskFailed")


def test_what_a_client_says_it_annotated_counts_more(world: World, tmp_path: Path) -> None:
    rules(world, overlap_share=0)

    async def lead(method: str, params: Any) -> Any:
        return {"id": "ct_1", "roi": {"kind": "slices", "axis": 2, "slices": [1]}}

    world.engine.call_lead = lead  # type: ignore[method-assign, assignment]
    ask(world, "anna", strategy="own")
    answer = world.http.put(
        "/api/v1/images/ct_1/labels/final",
        data={"annotated": json.dumps({"region": {"kind": "whole"}})},
        files={"label": ("l.nii.gz", label_bytes(tmp_path))},
        headers={"X-Labelserver-Person": "anna"},
    )
    assert answer.json()["annotated"]["region"] == {"kind": "whole"}
    assert lease_verb(world, "anna", "x", "heartbeat").status_code == 404
