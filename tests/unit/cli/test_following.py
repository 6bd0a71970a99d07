"""What a person sees of a job that goes, and what the rules for trainings read like."""

from __future__ import annotations

import json

import httpx
import pytest
from rich.console import Console

from labelserver.cli.failing import CommandFailed
from labelserver.cli.following import Screen, ended_in_words, watch
from labelserver.cli.triggers import in_words
from labelserver.client import Job, LabelServerClient
from labelserver.wire.events import ServerEvent
from labelserver.wire.triggers import TriggersInUse

JOB = {
    "id": "3f2b8c1e-0000-4000-8000-000000000007",
    "kind": "train",
    "task": "liver",
    "state": "running",
    "person": "ann",
    "params": {},
    "created_ts": 1.0,
}
PROGRESS = {
    "epoch": 1,
    "total_epochs": 5,
    "step": 8,
    "total_steps": 40,
    "time_left_s": 75.4,
    "device": "cuda:0",
    "memory_bytes": 3 * 2**30,
}
EPOCH = {
    **PROGRESS,
    "loss": 0.25,
    "learning_rate": 0.004,
    "metrics": {"val_mean_dice": 0.5, "val_liver_mean_dice": 0.75},
}


def event(kind: str, **data: object) -> ServerEvent:
    return ServerEvent(kind=kind, id=1, data=data, job_id=JOB["id"])


def test_the_screen_tells_where_a_training_is_and_what_each_epoch_brought() -> None:
    screen = Screen(Job(**JOB))
    assert screen.take(event("job.state", state="running")) == ["liver: running"]
    assert screen.take(event("job.progress", **PROGRESS)) == []
    line = screen.take(event("job.epoch", **EPOCH))[0]
    assert line == "epoch 1/5  loss 0.2500  val_mean_dice 0.5000  val_liver_mean_dice 0.7500  0:01:15 left"
    screen.take(event("job.log", line="left out case_17: The label is empty."))
    screen.take(event("job.progress", paused=True))
    assert screen.take(event("version.candidate", model="liver", version=3)) == ["version candidate: liver 3"]
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - for the test's life
    console.print(screen.render())
    shown = console.export_text()
    for words in (
        "epoch 1/5",
        "step 8/40",
        "0:01:15 left",
        "cuda:0",
        "3.0 GiB",
        "4.00e-03",
        "0.7500",
        "left out case_17",
    ):
        assert words in shown
    assert "waits while people use the device" in shown
    console.file.close()


def server_with(states: list[str], **end: object) -> LabelServerClient:
    """Its events tell of `states` in order; the job itself is as the last says."""
    lines = "".join(
        f"id: {n}\nevent: job.state\ndata: {json.dumps({'id': n, 'kind': 'job.state', 'data': {'state': s}})}\n\n"
        for n, s in enumerate(states, start=1)
    )

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/v1/events":
            assert request.url.params["job"] == JOB["id"]
            return httpx.Response(200, text=f"retry: 1000\n\n: keep-alive\n\n{lines}")
        return httpx.Response(200, json={**JOB, "state": states[-1], **end})

    return LabelServerClient(transport=httpx.MockTransport(answer))


def test_watching_ends_with_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    with server_with(["queued", "running", "done"]) as client:
        assert watch(client, Job(**JOB)).state.value == "done"
    assert capsys.readouterr().out.splitlines()[0] == "liver: queued"


def test_a_failure_is_told_with_what_to_do() -> None:
    end = {"reason": "disk_full", "message": "No space left.", "advice": "Free some space."}
    with server_with(["running", "failed"], **end) as client, pytest.raises(CommandFailed) as failure:
        watch(client, Job(**JOB))
    assert failure.value.sentence == "Job 3f2b8c1e failed (disk_full): No space left. Free some space."
    assert "jobs resume 3f2b8c1e" in ended_in_words(Job(**{**JOB, "state": "stopped"}))


def test_events_go_on_behind_the_last_one_after_a_broken_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labelserver.client.following.RETRY_S", 0.0)
    asked: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        place = request.url.params.get("after")
        asked.append(place)
        if len(asked) == 2:
            raise httpx.ConnectError("the server restarts")
        number = int(place or 0) + 1
        return httpx.Response(200, text=f'data: {{"id": {number}, "kind": "n", "data": {{}}}}\n\n')

    with LabelServerClient(transport=httpx.MockTransport(answer)) as client:
        stream = client.events(after=0)
        assert [next(stream).id for _ in range(3)] == [1, 2, 3]
        stream.close()
    assert asked == ["0", "1", "1", "2"]


def test_rules_read_as_a_sentence() -> None:
    assert in_words(TriggersInUse()) == "Trainings start by hand alone."
    rules = TriggersInUse(every_labels=5, daily_at="02:30", idle_minutes=10, trainers=["liver"], labels_waiting=2)
    assert in_words(rules) == (
        "Trainings of liver start after 5 labels, or daily at 02:30, or when nobody has worked for 10 minutes. "
        "2 labels wait for a training."
    )
