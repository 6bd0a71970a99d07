"""Events keep their order and their numbers, readers find their place again, and memory stays bounded."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from labelserver.domain.errors import DiskFull
from labelserver.domain.ids import JobId
from labelserver.domain.jobs import JobEvent, JobKind, JobSpec, Signal, advance, fold
from labelserver.domain.models import Decision, Verdict
from labelserver.engine import event_hub
from labelserver.engine.event_hub import EventHub, Wanted
from labelserver.engine.job_events import JobEvents, version_event

SPEC = JobSpec(JobId("3f2b8c1e-0000-4000-8000-000000000005"), JobKind.TRAIN, "liver", {}, "ann", 1.0)


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "events.jsonl"


def hub_of(journal, **options) -> EventHub:
    return EventHub(journal, **options)


def kinds(hub, number=0, wanted=event_hub.EVERYTHING):
    return [event.kind for event in hub.after(number, wanted)[0]]


def test_readers_get_what_they_want_in_order_and_go_on_from_their_place(journal):
    hub = hub_of(journal)
    first = hub.publish("job.state", {"state": "running"}, job_id="a")
    hub.publish("job.epoch", {"epoch": 1}, job_id="b")
    hub.publish("jobless", {})
    hub.publish("version.published", {"model": "liver"})
    assert kinds(hub) == ["job.state", "job.epoch", "jobless", "version.published"]
    assert kinds(hub, wanted=Wanted(kinds=("job",))) == ["job.state", "job.epoch"]
    assert kinds(hub, wanted=Wanted(kinds=("job.epoch", "version"))) == ["job.epoch", "version.published"]
    assert kinds(hub, wanted=Wanted(job_id="a")) == ["job.state"]
    found, place, missed = hub.after(first.number)
    assert ([event.number for event in found], missed) == ([first.number + n for n in (1, 2, 3)], False)
    assert hub.after(place) == ([], place, False)
    assert hub.after(first.number, limit=1)[1] == first.number + 1


def test_numbers_grow_from_server_to_server_even_without_the_journal(journal):
    clock = iter(float(n) for n in range(1_000, 1_100))
    first = EventHub(journal, clock=lambda: next(clock))
    numbers = [first.publish("a", {}).number for _ in range(3)]
    again = EventHub(journal, clock=lambda: 5.0)
    assert [event.kind for event in again.after(numbers[0])[0]] == ["a", "a"], "kept for those who were away"
    assert again.publish("b", {}).number > numbers[-1], "even if the clock stepped back"
    journal.unlink()
    assert EventHub(journal, clock=lambda: 2_000.0).publish("c", {}).number > numbers[-1] + 1


def test_memory_and_journal_are_bounded_and_a_late_reader_learns_of_the_gap(journal):
    hub = hub_of(journal, kept=10, journal_bytes=2_000)
    begun = hub.last_number
    for number in range(500):
        hub.publish("n", {"n": number})
    found, place, missed = hub.after(begun)
    assert [event.data["n"] for event in found] == list(range(490, 500))
    assert missed
    assert hub.after(place) == ([], place, False)
    assert sum(file.stat().st_size for file in journal.parent.iterdir()) < 6_000
    assert [event.data["n"] for event in hub_of(journal, kept=10).kept()] == list(range(490, 500))


def test_a_torn_or_foreign_line_costs_itself_alone(journal):
    hub = hub_of(journal)
    hub.publish("a", {})
    with journal.open("a") as stream:
        stream.write('{"kind": "of another kind"}\n{"id": 7, "ts"')
    assert [event.kind for event in hub_of(journal).kept()] == ["a"]


def test_a_full_disk_costs_the_journal_but_no_reader(journal, monkeypatch, caplog):
    hub = hub_of(journal)

    def full(*args, **options):
        raise DiskFull("No space left.")

    monkeypatch.setattr(event_hub, "JsonLinesWriter", full)
    hub.publish("a", {})
    assert kinds(hub) == ["a"]
    assert "not kept" in caplog.text


def test_what_must_be_named_no_more_is_forgotten_on_disk_too(journal):
    hub = hub_of(journal)
    hub.publish("label.saved", {"image": "anna"})
    last = hub.publish("version.published", {"model": "liver"})
    hub.forget(Wanted(kinds=("label",)))
    hub.publish("label.saved", {"image": "ben"})
    assert "anna" not in journal.read_text()
    assert [event.kind for event in hub.kept()] == ["version.published", "label.saved"]
    assert hub.after(last.number - 1)[2], "a reader before it is told to look again"
    assert [event.number for event in hub_of(journal).kept()] == [event.number for event in hub.kept()]


async def waiting_reader(hub, heard):
    place = hub.last_number
    while not hub.closed:
        if await hub.wait(place, 30):
            found, place, _ = hub.after(place)
            heard.extend(event.data["n"] for event in found)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_readers_wake_for_events_of_any_thread_and_end_at_once(journal):
    hub = hub_of(journal)
    heard: list[list[int]] = [[], []]
    readers = [asyncio.create_task(waiting_reader(hub, list_)) for list_ in heard]
    await asyncio.sleep(0)
    writers = [
        threading.Thread(target=lambda n=n: [hub.publish("n", {"n": n * 100 + i}) for i in range(50)]) for n in range(4)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        await asyncio.to_thread(writer.join)
    async with asyncio.timeout(30):
        while any(len(list_) < 200 for list_ in heard):
            await asyncio.sleep(0.005)
        hub.close()
        await asyncio.gather(*readers)
    assert heard[0] == heard[1] == [event.data["n"] for event in hub.kept()]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_waiting_ends_without_news(journal):
    hub = hub_of(journal)
    assert await hub.wait(hub.last_number, 0.001) is False
    place = hub.publish("n", {}).number
    hub = hub_of(journal)
    assert await hub.wait(place, 0.001) is False, "the next server's numbers begin later, which is no news"
    hub.close()
    assert await hub.wait(hub.last_number, 30) is False


def tell(events, *signals):
    record = fold(SPEC, [])
    for number, (signal, data) in enumerate(signals):
        event = JobEvent(hub_time + number, signal, data)
        record = advance(record, [event])
        events(record, event)


hub_time = 2_000.0


def test_a_jobs_news_become_events_and_an_earlier_server_has_told_them_once(journal):
    hub = EventHub(journal, clock=lambda: hub_time - 1)
    news = (
        (Signal.STARTED, {}),
        (Signal.RUNNING, {}),
        (Signal.PROGRESS, {"step": 1}),
        (Signal.LOG, {"line": "x" * 5000}),
        (Signal.EPOCH, {"epoch": 1, "metrics": {"val_liver_mean_dice": 0.5}}),
        (Signal.VERSION, {"model": "liver", "version": 3}),
        (Signal.FAILED, {"reason": "disk_full", "message": "No space."}),
    )
    tell(JobEvents(hub), *news)
    found = hub.kept()
    assert [event.kind for event in found] == [
        *("job.state", "job.state", "job.progress", "job.log", "job.epoch", "version.candidate", "job.state")
    ]
    assert all(event.data["task"] == "liver" and event.job_id == SPEC.job_id for event in found)
    assert len(str(found[3].data["line"])) == 2000
    assert found[-1].data["reason"] == "disk_full"
    assert "Free some space" in str(found[-1].data["advice"])
    assert [event.ts for event in found] == [hub_time + n for n in range(7)]
    later = EventHub(journal, clock=lambda: hub_time + 100)
    tell(JobEvents(later), *news)
    assert len(later.kept()) == len(found), "read again from the folder, and not told again"


def test_what_was_before_the_first_server_with_events_is_not_told(journal):
    hub = EventHub(journal, clock=lambda: hub_time + 50)
    tell(JobEvents(hub), (Signal.STARTED, {}), (Signal.RUNNING, {}))
    assert hub.kept() == []


def test_a_decision_names_version_and_reason():
    kind, data = version_event("liver", 3, Decision(Verdict.REJECTED, "Worse.", 1.0))
    assert (kind, data) == (
        "version.rejected",
        {"model": "liver", "version": 3, "verdict": "rejected", "reason": "Worse."},
    )
    json.dumps(data)
