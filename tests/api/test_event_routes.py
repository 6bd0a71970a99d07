"""Events, curves, resuming and triggers over HTTP."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from labelserver.api.store_news import StoreNews
from labelserver.api.training_background import count_labels, look_at_triggers
from labelserver.domain.jobs import JobKind, JobState, Signal
from tests.api.conftest import World, label_bytes

TRIGGERS = "/api/v1/training/triggers"


def events(world: World, query: str = "after=0", **headers: str) -> list[dict[str, Any]]:
    """The events that are there."""
    answer = world.http.get(f"/api/v1/events?follow=false&{query}", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in answer.text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "data" in fields:
            document = json.loads(fields["data"])
            assert fields["event"] == document.get("kind", "gap")
            assert fields.get("id", "") == str(document.get("id", ""))
            found.append({"kind": fields["event"], **document})
    return found


def save_label(world: World, image: str = "ct_1", tag: str = "final") -> None:
    answer = world.http.put(
        f"/datastore/label?image={image}&tag={tag}",
        files={"label": ("l.nii.gz", label_bytes(world.roots.app))},
        headers={"X-Labelserver-Person": "ada"},
    )
    assert answer.status_code == 200, answer.text


def look(world: World) -> StoreNews:
    news = StoreNews(world.server.events)
    news.look(world.store)
    return news


def start_training(world: World) -> str:
    answer = world.http.post("/train/segmentation", json={})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def test_events_are_resumed_by_id_and_filtered(world):
    hub = world.server.events
    first = hub.publish("job.state", {"state": "running"}, job_id="a")
    hub.publish("job.progress", {"loss": float("nan")}, job_id="b")
    hub.publish("version.published", {"model": "liver"})
    mine = [event for event in events(world) if event["id"] >= first.number]
    assert [event["kind"] for event in mine] == ["job.state", "job.progress", "version.published"]
    assert mine[0]["data"] == {"state": "running"}
    assert mine[0]["job_id"] == "a"
    assert mine[1]["data"] == {"loss": None}
    later = events(world, "", **{"Last-Event-ID": str(first.number)})
    assert [event["id"] for event in later] == [event["id"] for event in mine[1:]]
    assert [event["kind"] for event in events(world, f"after={first.number - 1}&job=a")] == ["job.state"]
    assert [e["kind"] for e in events(world, f"after={first.number}&kind=version&kind=label")] == ["version.published"]
    assert events(world, "kind=job") == [], "without a place only what is new"
    refused = world.http.get("/api/v1/events", headers={"Last-Event-ID": "yesterday"})
    assert refused.status_code == 422
    assert "Last-Event-ID" in refused.json()["detail"]


def test_a_reader_that_was_away_too_long_is_told(world):
    world.server.events.publish("n", {})
    assert events(world, "after=1")[0]["kind"] == "gap"
    assert [event["kind"] for event in events(world, "after=0&kind=n")] == ["n"]


def test_a_place_beyond_all_events_is_told_and_counts_as_now(world):
    last = world.server.events.publish("n", {}).number
    assert [event["kind"] for event in events(world, f"after={last + 10**9}")] == ["gap"]
    assert events(world, f"after={last}") == []


def test_labels_and_images_become_events_whoever_changes_them(world, tmp_path):
    news = look(world)
    place = world.server.events.last_number
    save_label(world)
    world.store.remove_label("ct_1", "final", "ben")
    world.store.remove_image("ct_2", "ben")
    news.look(world.store)
    found = [event for event in events(world, f"after={place}") if not event["kind"].startswith(("job", "schema"))]
    assert [event["kind"] for event in found] == ["label.saved", "label.removed", "image.removed", "image.list"]
    saved = found[0]["data"]
    assert (saved["image"], saved["tag"], saved["revision"], saved["person"]) == ("ct_1", "final", 1, "ada")
    assert found[2]["data"]["image"] == "ct_2"
    assert found[3]["data"]["total"] == 1
    again = StoreNews(world.server.events)
    again.look(world.store)
    assert world.server.events.last_number == found[-1]["id"], "the next server tells nothing twice"


def test_what_happened_while_no_server_was_there_is_told_by_the_next(world):
    save_label(world)
    look(world)
    place = world.server.events.last_number
    world.server.events.publish("label.saved", {"entry": world.store.audit_log(1)[-1].number})
    world.store.remove_label("ct_1", "final", "cli")
    look(world)
    assert "label.removed" in [event["kind"] for event in events(world, f"after={place}")]


def test_the_curve_of_a_training_is_one_point_an_epoch(world):
    job = start_training(world)
    world.engine.jobs.happen(job, Signal.STARTED, Signal.RUNNING)
    for epoch in (1, 2):
        world.engine.jobs.happen(
            job, Signal.EPOCH, epoch=epoch, loss=1 / epoch, learning_rate=0.01, metrics={"val_liver_mean_dice": 0.5}
        )
    answer = world.http.get(f"/api/v1/jobs/{job}/curve")
    assert answer.status_code == 200
    document = answer.json()
    assert (document["job"], document["task"], document["state"]) == (job, "segmentation", "running")
    assert [point["epoch"] for point in document["points"]] == [1, 2]
    assert document["points"][1] == {
        "epoch": 2,
        "loss": 0.5,
        "learning_rate": 0.01,
        "metrics": {"val_liver_mean_dice": 0.5},
    }


def test_a_failed_job_says_what_to_do_and_is_resumed(world):
    job = start_training(world)
    world.engine.jobs.happen(job, Signal.STARTED, Signal.RUNNING)
    refused = world.http.post(f"/api/v1/jobs/{job}/resume")
    assert refused.status_code == 409
    world.engine.jobs.happen(job, Signal.FAILED, reason="disk_full", message="No space left.")
    failed = world.http.get(f"/api/v1/jobs/{job}").json()
    assert (failed["reason"], failed["message"]) == ("disk_full", "No space left.")
    assert "Free some space" in failed["advice"]
    resumed = world.http.post(f"/api/v1/jobs/{job}/resume")
    assert resumed.status_code == 200, resumed.text
    assert (resumed.json()["state"], resumed.json()["reason"], resumed.json()["advice"]) == ("queued", None, "")
    assert world.http.post("/api/v1/jobs/00000000-0000-4000-8000-00000000ffff/resume").status_code == 404


def test_triggers_are_shown_switched_and_kept(world):
    assert world.http.get(TRIGGERS).json()["every_labels"] == 0
    wanted = {"every_labels": 3, "daily_at": "02:30", "trainers": ["segmentation"]}
    answer = world.http.put(TRIGGERS, json=wanted)
    assert answer.status_code == 200, answer.text
    assert {key: answer.json()[key] for key in wanted} == wanted
    assert world.http.get("/info/").json()["training"]["triggers"]["every_labels"] == 3
    assert json.loads((world.roots.app / "triggers.json").read_text())["triggers"]["daily_at"] == "02:30"
    assert "training.triggers" in [event["kind"] for event in events(world)]
    for wrong in ({"daily_at": "noon"}, {"every_labels": -1}, {"every": 1}):
        assert world.http.put(TRIGGERS, json=wrong).status_code == 422
    assert world.http.put(TRIGGERS, json={"trainers": ["nobody"]}).status_code == 404
    assert world.http.get(TRIGGERS).json()["every_labels"] == 3, "as before"


def trigger(world: World) -> list[str]:
    world.http.portal.call(look_at_triggers, world.server)
    return [record.spec.person for record in world.engine.jobs.list(JobKind.TRAIN)]


def test_labels_start_one_training_and_never_two_at_once(world):
    world.engine.jobs.clock = iter(time.time() + n for n in range(1, 1000))
    news = look(world)
    world.server.triggers.count([], world.server.events.last_number)
    world.http.put(TRIGGERS, json={"every_labels": 2, "settle_s": 0})
    save_label(world)
    save_label(world, tag="original")
    news.look(world.store)
    assert trigger(world) == [], "a model's proposal is no accepted label"
    save_label(world, "ct_2")
    news.look(world.store)
    assert trigger(world) == ["labelserver"]
    told = [event for event in events(world) if event["kind"] == "training.triggered"]
    assert told[0]["data"] == {"task": "segmentation", "why": "2 labels were accepted"}
    assert trigger(world) == ["labelserver"]
    job = world.engine.jobs.list(JobKind.TRAIN)[0].spec.job_id
    world.engine.jobs.happen(job, Signal.STARTED, Signal.RUNNING, Signal.RESULT)
    assert world.engine.jobs.get(job).state is JobState.DONE
    assert trigger(world) == ["labelserver"], "these labels were learnt from"


def test_a_restart_counts_labels_that_were_saved_meanwhile(world):
    world.server.triggers.count([], world.server.events.last_number)
    news = look(world)
    save_label(world)
    news.look(world.store)
    count_labels(world.server)
    assert world.server.triggers.labels_waiting == 1
    count_labels(world.server)
    assert world.server.triggers.labels_waiting == 1


@pytest.mark.parametrize(
    ("method", "path", "is_work"),
    [
        ("POST", "/activelearning/first", True),
        ("GET", "/datastore/image?image=ct_1", True),
        ("GET", "/info/", False),
        ("GET", "/train/", False),
        ("POST", "/train/segmentation", False),
        ("GET", "/api/v1/events?follow=false", False),
    ],
)
def test_people_who_work_put_idle_trainings_off(world, monkeypatch, method, path, is_work):
    before = world.server.triggers._acted_ts
    world.http.request(method, path, **({"json": {}} if method == "POST" else {}))
    assert (world.server.triggers._acted_ts > before) is is_work
