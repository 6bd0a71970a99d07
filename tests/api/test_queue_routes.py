"""The next image over HTTP: leased, with its reason; every ending has an answer of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.conftest import Make, World, label_bytes
from tests.fakes.fake_engine import described


def ask(world: World, person: str, **wanted: Any) -> dict[str, Any]:
    answer = world.http.post("/api/v1/queue/next", json=wanted, headers={"X-Labelserver-Person": person})
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def lease_verb(world: World, person: str, lease: str, verb: str, **body: Any) -> httpx.Response:
    url = f"/api/v1/queue/leases/{lease}/{verb}"
    return world.http.post(url, json=body or None, headers={"X-Labelserver-Person": person})


def submit(world: World, person: str, image: str, tmp_path: Path, tag: str = "final") -> httpx.Response:
    answer = world.http.put(
        "/datastore/label",
        params={"image": image, "tag": tag},
        files={"label": ("l.nii.gz", label_bytes(tmp_path))},
        headers={"X-Labelserver-Person": person},
    )
    assert answer.status_code == 200, answer.text
    return answer


def rules(world: World, **changed: Any) -> dict[str, Any]:
    before = world.http.get("/api/v1/queue/rules").json()
    answer = world.http.put("/api/v1/queue/rules", json={**before, **changed, "based_on": before["version"]})
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def test_the_next_image_comes_with_lease_and_reason(world: World) -> None:
    rules(world, overlap_share=0)
    given = ask(world, "anna", strategy="first")
    assert (given["status"], given["image"]["id"], given["resumed"]) == ("image", "ct_1", False)
    assert given["image"]["work"] == {
        "stage": "draft",
        "readers": 1,
        "read": 0,
        "holders": ["anna"],
        "held_until": given["lease"]["expires_at"],
        "flagged_by": "",
        "flag_reason": "",
        "flagged_ts": None,
    }
    assert given["lease"]["tag"] == "final"
    assert given["lease"]["heartbeat_s"] == 60
    assert given["reason"] == {"strategy": "first", "why": "First", "details": {}}
    assert given["roi"] is None
    assert given["labels"] == []
    again = ask(world, "anna", strategy="first")
    assert (again["lease"]["id"], again["resumed"]) == (given["lease"]["id"], True)
    assert ask(world, "bea")["image"]["id"] == "ct_2"


def test_without_a_body_and_strategy_there_is_a_default(world: World) -> None:
    answer = world.http.post("/api/v1/queue/next")
    assert answer.json()["reason"]["strategy"] == "random"
    assert "weight" in answer.json()["reason"]["details"]


def test_each_ending_is_told_apart(world: World, tmp_path: Path) -> None:
    rules(world, overlap_share=0)
    mine = [ask(world, "anna", resume=False)["image"]["id"] for _ in range(2)]
    assert sorted(mine) == ["ct_1", "ct_2"]
    waits = ask(world, "bea")
    assert (waits["status"], waits["leased"]) == ("all_leased", 2)
    assert 0 < waits["retry_after_s"] <= 600
    assert "Ask again later" in waits["message"]
    for image in mine:
        submit(world, "anna", image, tmp_path)
    assert ask(world, "bea")["status"] == "nothing_left"
    rules(world, approved_only=True)
    waits = ask(world, "bea")
    assert (waits["status"], waits["to_review"]) == ("needs_review", 2)


def test_heartbeat_release_and_skip(world: World) -> None:
    rules(world, overlap_share=0)
    lease = ask(world, "anna", strategy="first")["lease"]
    beat = lease_verb(world, "anna", lease["id"], "heartbeat")
    assert (beat.status_code, beat.json()["id"]) == (200, lease["id"])
    assert beat.json()["expires_at"] >= lease["expires_at"]
    for person, code in (("bea", 404), ("anna", 200)):
        assert lease_verb(world, person, lease["id"], "release").status_code == code
    lease = ask(world, "anna", strategy="first")["lease"]
    assert lease_verb(world, "anna", lease["id"], "skip", reason="too dark").json() == {"image": "ct_1"}
    assert ask(world, "anna", strategy="first")["image"]["id"] == "ct_2"
    gone = lease_verb(world, "anna", lease["id"], "heartbeat")
    assert (gone.status_code, gone.json()["code"]) == (404, "LeaseNotFound")


def test_other_peoples_lease_ids_are_not_told(world: World) -> None:
    rules(world, overlap_share=0)
    lease = ask(world, "anna")["lease"]
    seen = world.http.get("/api/v1/queue/leases", headers={"X-Labelserver-Person": "bea"}).json()["leases"]
    assert [(row["person"], "id" in row) for row in seen] == [("anna", False)]
    own = world.http.get("/api/v1/queue/leases", headers={"X-Labelserver-Person": "anna"}).json()["leases"]
    assert own[0]["id"] == lease["id"]


def test_old_clients_lease_without_knowing(world: World, tmp_path: Path) -> None:
    rules(world, overlap_share=0)
    first = world.http.post("/activelearning/first", json={"client_id": "slicer-1"}).json()
    second = world.http.post("/activelearning/first", json={"client_id": "slicer-2"}).json()
    assert (first["id"], second["id"]) == ("ct_1", "ct_2")
    assert world.http.post("/activelearning/first", json={"client_id": "slicer-3"}).json() == {}
    assert ask(world, "anna")["status"] == "all_leased"
    world.http.put(
        "/datastore/label",
        params={"image": "ct_1"},
        data={"params": '{"client_id": "slicer-1"}'},
        files={"label": ("l.nii.gz", label_bytes(tmp_path))},
    )
    assert len(world.store.work.queue.leases()) == 1


def test_two_anonymous_clients_of_one_address_get_two_images(world: World) -> None:
    rules(world, overlap_share=0)
    images = [world.http.post("/activelearning/first", json={}).json()["id"] for _ in range(2)]
    assert sorted(images) == ["ct_1", "ct_2"]


def test_an_apps_own_strategy_is_leased_after_it_chose(world: World) -> None:
    rules(world, overlap_share=0)
    answers = iter(["ct_1", "ct_1", "ct_2"])

    async def lead(method: str, params: Any) -> Any:
        assert (method, params["request"]["strategy"]) == ("next_sample", "own")
        return {"id": next(answers), "rank": 3, "info": {"large": True}}

    world.engine.call_lead = lead  # type: ignore[method-assign, assignment]
    given = ask(world, "anna", strategy="own")
    assert (given["image"]["id"], given["reason"]["details"]) == ("ct_1", {"rank": 3})
    assert ask(world, "bea", strategy="own")["image"]["id"] == "ct_2", "it is asked again after it named a leased one"


def test_done_images_are_given_where_somebody_means_them(world: World, tmp_path: Path) -> None:
    rules(world, overlap_share=0)
    submit(world, "anna", "ct_1", tmp_path)
    again = world.http.post("/activelearning/first", json={"client_id": "bea", "label_tag": "second"}).json()
    assert again["id"] == "ct_1", "it has no label under that tag"

    async def lead(method: str, params: Any) -> Any:
        return {"id": "ct_1"}

    world.engine.call_lead = lead  # type: ignore[method-assign, assignment]
    assert ask(world, "carl", strategy="own")["image"]["id"] == "ct_2", "bea has it"
    submit(world, "bea", "ct_1", tmp_path, tag="second")
    assert ask(world, "dora", strategy="own")["image"]["id"] == "ct_1", "the app insists"


def test_an_unknown_strategy_is_named(world: World) -> None:
    answer = world.http.post("/api/v1/queue/next", json={"strategy": "nope"})
    assert (answer.status_code, answer.json()["code"]) == (404, "TaskNotFound")
    answer = world.http.post("/api/v1/queue/next", json={"person": "anna"})
    assert answer.status_code == 422


def test_readings_of_old_clients_are_kept_apart(world: World, tmp_path: Path) -> None:
    rules(world, overlap_share=1, overlap_readers=2)
    for person in ("anna", "bea"):
        assert ask(world, person, strategy="first")["image"]["id"] == "ct_1"
        submit(world, person, "ct_1", tmp_path)
    record = world.http.get("/api/v1/images/ct_1").json()
    assert record["labels"] == ["reader_1", "reader_2"]
    assert (record["work"]["stage"], record["work"]["read"]) == ("submitted", 2)


def test_flagged_images_wait_outside(world: World) -> None:
    rules(world, overlap_share=0)
    answer = world.http.post(
        "/api/v1/images/ct_1/flag", json={"reason": "wrong patient"}, headers={"X-Labelserver-Person": "anna"}
    )
    assert answer.json()["work"]["stage"] == "flagged"
    assert answer.json()["work"]["flag_reason"] == "wrong patient"
    listed = world.http.get("/api/v1/images", params={"stage": "flagged"}).json()["images"]
    assert [image["id"] for image in listed] == ["ct_1"]
    assert ask(world, "bea")["image"]["id"] == "ct_2"
    assert ask(world, "carl")["flagged"] == 1
    assert world.http.post("/api/v1/images/ct_1/unflag").json()["work"]["stage"] == "unlabeled"
    assert ask(world, "carl")["image"]["id"] == "ct_1"
    assert world.http.post("/api/v1/images/none/flag", json={"reason": "x"}).status_code == 404
    actions = [entry.act.action for entry in world.store.audit_log(10)]
    assert actions[-2:] == ["flag", "unflag"]


def test_images_are_listed_by_stage(world: World, tmp_path: Path) -> None:
    rules(world, overlap_share=0)

    def ids(stage: str) -> list[str]:
        listed = world.http.get("/api/v1/images", params={"stage": stage}).json()["images"]
        return [image["id"] for image in listed]

    assert (ids("unlabeled"), ids("draft")) == (["ct_1", "ct_2"], [])
    ask(world, "anna", strategy="first")
    assert (ids("unlabeled"), ids("draft")) == (["ct_2"], ["ct_1"])
    submit(world, "anna", "ct_1", tmp_path)
    assert (ids("submitted"), ids("draft")) == (["ct_1"], [])


@pytest.mark.parametrize(
    "wrong",
    [
        {"overlap_share": 2},
        {"members": [{"person": "anna", "groups": ["none"]}]},
        {"groups": [{"name": "a", "images": []}]},
        {"unknown": 1},
    ],
)
def test_rules_that_make_no_sense_change_nothing(world: World, wrong: dict[str, Any]) -> None:
    before = rules(world, overlap_share=0.5)
    answer = world.http.put("/api/v1/queue/rules", json={**before, **wrong})
    assert answer.status_code == 422, answer.text
    assert world.http.get("/api/v1/queue/rules").json() == before


def test_a_lost_change_of_the_rules_is_told(world: World) -> None:
    before = rules(world, overlap_share=0.5)
    rules(world, overlap_share=0.6)
    answer = world.http.put("/api/v1/queue/rules", json={**before, "based_on": before["version"]})
    assert answer.status_code == 409


def test_a_store_of_the_app_has_no_queue(make_world: Make) -> None:
    world = make_world(described(local_store=None))
    assert world.http.post("/api/v1/queue/next").status_code == 501
