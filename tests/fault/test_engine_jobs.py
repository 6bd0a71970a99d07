"""Jobs outlive their server, and everything that can be killed is killed. Real processes, a fake app."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from labelserver.domain.errors import DiskFull, IllegalTransition, JobNotFound, QueueFull, StorageFailed
from labelserver.domain.ids import JobId
from labelserver.domain.jobs import JobKind, JobReason, JobState, Signal
from labelserver.engine import warm_jobs
from labelserver.engine.job_folder import JobFolder
from labelserver.storage.processes import identity_of, is_proven_dead
from tests.support.local_engine import Place, until

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

TRAIN, SCORING, BATCH = JobKind.TRAIN, JobKind.SCORING, JobKind.BATCH_INFER


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def folder_of(place, record):
    return JobFolder(place.roots.app / "jobs" / record.spec.job_id)


async def submit(engine, kind=TRAIN, task="seg", enqueue=False, **params):
    return await engine.jobs.submit(kind, task, params, "ann", enqueue=enqueue)


async def finished(engine, record):
    return await asyncio.wait_for(engine.jobs.wait(record.spec.job_id), 30)


async def test_a_training_reports_and_ends(place):
    async with place.running(ready=False) as engine:
        submitted = await submit(engine, steps=4)
        assert submitted.state in (JobState.QUEUED, JobState.STARTING)
        assert submitted.details, "there is always a line to show"
        record = await finished(engine, submitted)
        assert record.state is JobState.DONE
        assert record.result == {"steps": 4, "first": 0, "model": "seg"}
        assert record.progress == {"epoch": 4, "total_epochs": 4, "loss": None}
        assert record.started_ts is not None
        assert record.ended_ts >= record.started_ts
        assert engine.jobs.get(record.spec.job_id) == record
        assert engine.jobs.list() == engine.jobs.list(TRAIN) == [record]
        assert engine.jobs.list(SCORING) == []
    folder = folder_of(place, record)
    assert json.loads((folder.path / "exit.json").read_text())["data"] == {"returncode": 0}
    assert not folder.temporary.exists()
    assert "training begins at step 0" in folder.log_file.read_text()
    assert folder.settings()["roots"]["app"] == str(place.roots.app)


async def test_r33_a_running_job_always_has_a_line_to_show(place):
    async with place.running(ready=False) as engine:
        record = await submit(engine, do="meet", name="x")
        await place.at("x")
        await until("it runs", lambda: engine.jobs.get(record.spec.job_id).state is JobState.RUNNING)
        assert "training begins at step 0" in engine.jobs.get(record.spec.job_id).details
        stopped = await engine.jobs.stop(record.spec.job_id)
        assert stopped.details
        await finished(engine, record)


async def test_a_scoring_method_is_a_job_too(place):
    async with place.running(ready=False) as engine:
        record = await finished(engine, await submit(engine, SCORING, "dice"))
        assert record.result == {"result": ["dice"]}


async def test_one_job_of_a_kind_runs_and_the_others_wait_in_order(place):
    async with place.running(ready=False) as engine:
        first = await submit(engine, do="meet", name="x")
        await place.at("x")
        with pytest.raises(QueueFull):
            await submit(engine)
        second = await submit(engine, enqueue=True)
        third = await submit(engine, enqueue=True)
        other = await submit(engine, SCORING, "dice")
        assert (await finished(engine, other)).state is JobState.DONE, "another kind does not wait"
        assert engine.jobs.get(second.spec.job_id).state is JobState.QUEUED
        place.let_pass("x")
        ends = [await finished(engine, record) for record in (first, second, third)]
        assert [record.state for record in ends] == [JobState.DONE] * 3
        assert ends[0].ended_ts <= ends[1].started_ts
        assert ends[1].ended_ts <= ends[2].started_ts
        await submit(engine)


async def test_two_quick_submissions_do_not_both_start(place):
    async with place.running(ready=False) as engine:
        found = await asyncio.gather(submit(engine), submit(engine), return_exceptions=True)
        assert sorted(type(one).__name__ for one in found) == ["JobRecord", "QueueFull"]


async def test_a_stop_reaches_the_next_step(place):
    async with place.running(ready=False) as engine:
        record = await submit(engine, steps=100, meet={"2": "x"})
        await place.at("x")
        asked = await engine.jobs.stop(record.spec.job_id)
        assert asked.state is JobState.STOPPING
        ended = await finished(engine, record)
        assert ended.state is JobState.STOPPED
        assert ended.result is not None
        assert ended.progress["epoch"] == 3
        with pytest.raises(IllegalTransition):
            await engine.jobs.stop(record.spec.job_id)
        signals = [event.signal for event in folder_of(place, record).control()]
        assert signals.index(Signal.STOP_ASKED) > signals.index(Signal.STARTED)


async def test_a_queued_job_is_stopped_without_ever_running(place):
    async with place.running(ready=False) as engine:
        first = await submit(engine, do="meet", name="x")
        await place.at("x")
        queued = await submit(engine, enqueue=True)
        stopped = await engine.jobs.stop(queued.spec.job_id)
        assert stopped.state is JobState.STOPPED
        assert stopped.details
        assert await finished(engine, queued) == stopped
        place.let_pass("x")
        await finished(engine, first)
        assert not folder_of(place, queued).events_file.exists()


async def test_a_job_that_does_not_listen_is_killed_after_the_grace_time(place):
    place.job_grace_s = 0.5
    async with place.running(ready=False) as engine:
        record = await submit(engine, stubborn=True, meet={"0": "x"})
        await place.at("x")
        process = folder_of(place, record).process()
        await engine.jobs.stop(record.spec.job_id)
        ended = await finished(engine, record)
        assert ended.state is JobState.STOPPED
        assert is_proven_dead(process)
        assert json.loads((folder_of(place, record).path / "exit.json").read_text())["data"] == {"returncode": -9}


async def test_a_full_disk_does_not_keep_a_job_from_being_stopped(place, monkeypatch):
    async with place.running(ready=False) as engine:
        record = await submit(engine, steps=100, meet={"2": "x"})
        await place.at("x")

        def full(*args, **kwargs):
            raise DiskFull("No space left.")

        with monkeypatch.context() as patched:
            patched.setattr(JobFolder, "say", full)
            await engine.jobs.stop(record.spec.job_id)
            await until("the job hears the signal", (place.roots.studies / "cancelled-x").exists)
        assert (await finished(engine, record)).state.is_final


async def test_a_job_that_still_loads_the_app_is_stopped_at_once(place):
    (place.roots.app / "load-barrier").touch()
    async with place.running(ready=False) as engine:
        record = await submit(engine)
        await until("the job's process", lambda: "Loading the app." in engine.jobs.get(record.spec.job_id).details)
        await engine.jobs.stop(record.spec.job_id)
        assert (await finished(engine, record)).state is JobState.STOPPED


@pytest.mark.parametrize(
    ("what", "reason", "says"),
    [
        ("raise", JobReason.APP_ERROR, "The trainer seg failed with RuntimeError: the network is upside down"),
        ("memory", JobReason.OUT_OF_MEMORY, "ran out of memory"),
        ("full", JobReason.DISK_FULL, "no space left"),
        ("bad data", JobReason.BAD_DATA, "does not fit"),
        ("nan", JobReason.NAN_LOSS, "not a number"),
        ("exit", JobReason.APP_ERROR, "SystemExit"),
        ("die", JobReason.KILLED, "signal 9"),
    ],
)
async def test_a_failure_has_a_reason_and_a_sentence(place, what, reason, says):
    async with place.running(ready=False) as engine:
        record = await finished(engine, await submit(engine, do=what))
        assert (record.state, record.reason) == (JobState.FAILED, reason)
        assert says in record.message
        assert "Traceback" not in "".join(record.details)
        assert (await finished(engine, await submit(engine))).state is JobState.DONE
    if what == "raise":
        assert "Traceback" in folder_of(place, record).log_file.read_text()


async def test_an_app_that_cannot_be_loaded_fails_the_job(place):
    (place.roots.app / "lib" / "broken.py").write_text("main.py is broken.")
    async with place.running(ready=False) as engine:
        record = await finished(engine, await submit(engine))
        assert (record.state, record.message) == (JobState.FAILED, "main.py is broken.")


async def test_a_runner_that_cannot_be_started_fails_the_job(place):
    engine = place.engine()
    engine._jobs._command = ("/nonexistent/python",)
    await engine.start()
    try:
        record = await finished(engine, await submit(engine))
        assert record.state is JobState.FAILED
        assert "could not be started" in record.message
    finally:
        await engine.stop()


async def test_each_version_is_handed_over_once_and_before_the_job_is_done(place):
    async with place.running(ready=False) as engine:
        record = await submit(engine, version_at=1, version=7, steps=3)
        ended = await finished(engine, record)
        assert ended.versions == (("lineage", 7),)
        assert place.versions == [("lineage", 7)]
    async with place.running(ready=False) as engine:
        await until("adoption", engine.jobs.list)
        await submit(engine)
        assert place.versions == [("lineage", 7)], "not again after a restart"


@pytest.mark.parametrize("error", [StorageFailed("The disk is away."), ZeroDivisionError("a defect")])
async def test_a_version_that_could_not_be_decided_is_handed_over_at_the_next_start(place, error):
    def fail(model, version):
        raise error

    engine = place.engine()
    engine._jobs._on_version = fail
    await engine.start()
    try:
        ended = await finished(engine, await submit(engine, version_at=1))
        assert ended.state is JobState.DONE
    finally:
        await engine.stop()
    async with place.running(ready=False):
        await until("the version", lambda: place.versions == [("lineage", 1)])


async def test_a_stopped_server_suspends_its_job_and_the_next_one_resumes_it(place, caplog):
    caplog.set_level("INFO")
    async with place.running(ready=False) as engine:
        record = await submit(engine, steps=6, meet={"2": "x"})
        await place.at("x")
    assert "suspended at its next step" in caplog.text
    folder = folder_of(place, record)
    await until("its process, which has said its last word, ends", lambda: is_proven_dead(folder.owner()))
    assert (folder.path / "checkpoint").read_text() == "3"
    place.let_pass("x")
    async with place.running(ready=False) as engine:
        await until("adoption", engine.jobs.list)
        ended = await finished(engine, record)
        assert ended.state is JobState.DONE
        assert ended.result == {"steps": 6, "first": 3, "model": "seg"}


async def test_queued_jobs_are_kept_behind_the_resumed_one(place):
    async with place.running(ready=False) as engine:
        first = await submit(engine, steps=6, meet={"2": "x"})
        second = await submit(engine, enqueue=True)
        await place.at("x")
    place.let_pass("x")
    async with place.running(ready=False) as engine:
        await until("adoption", lambda: len(engine.jobs.list()) == 2)
        ends = [await finished(engine, record) for record in (first, second)]
        assert [end.state for end in ends] == [JobState.DONE] * 2
        assert ends[0].ended_ts <= ends[1].started_ts


async def test_jobs_may_be_left_running(place, caplog):
    caplog.set_level("INFO")
    async with place.running(ready=False, leave_jobs=True) as engine:
        record = await submit(engine, steps=3, meet={"1": "x"})
        await place.at("x")
    assert "left running" in caplog.text
    owner = folder_of(place, record).owner()
    assert not is_proven_dead(owner)
    async with place.running(ready=False) as engine:
        await until("adoption", engine.jobs.list)
        assert engine.jobs.get(record.spec.job_id).state is JobState.RUNNING
        with pytest.raises(QueueFull):
            await submit(engine)
        place.let_pass("x")
        ended = await finished(engine, record)
        assert (ended.state, ended.result["first"]) == (JobState.DONE, 0), "the same run, not a new one"


async def test_a_job_that_ended_while_no_server_was_there_is_done(place):
    async with place.running(ready=False, leave_jobs=True) as engine:
        record = await submit(engine, steps=3, meet={"1": "x"}, version_at=2)
        await place.at("x")
    place.let_pass("x")
    await until("the exit record", lambda: folder_of(place, record).exit())
    async with place.running(ready=False) as engine:
        await until("adoption", engine.jobs.list)
        assert (await finished(engine, record)).state is JobState.DONE
        assert place.versions == [("lineage", 1)], "its version is decided now"


async def test_an_adopted_job_can_be_stopped(place):
    async with place.running(ready=False, leave_jobs=True) as engine:
        record = await submit(engine, steps=3, meet={"1": "x"})
        await place.at("x")
    async with place.running(ready=False) as engine:
        await until("adoption", engine.jobs.list)
        await engine.jobs.stop(record.spec.job_id)
        assert (await finished(engine, record)).state is JobState.STOPPED


DRIVER = """
import asyncio, sys
from pathlib import Path
from labelserver.domain.jobs import JobKind
from tests.support.local_engine import Place

async def main():
    place = Place(Path(sys.argv[1]))
    engine = place.engine()
    await engine.start()
    record = await engine.jobs.submit(JobKind(sys.argv[2]), "segmentation", eval(sys.argv[3]), "ann")
    print(record.spec.job_id, flush=True)
    await engine.jobs.wait(record.spec.job_id)

asyncio.run(main())
"""


class KilledServer:
    """A server process that submitted a job, to be killed."""

    def __init__(self, place, kind, params):
        root = Path(__file__).parents[2]
        folder = place.roots.app.parent
        self._process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(folder), kind.value, repr(params)],
            stdout=subprocess.PIPE,
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        self._jobs = place.roots.app / "jobs"

    async def job(self):
        """The folder of its job."""
        line = await asyncio.to_thread(self._process.stdout.readline)
        return JobFolder(self._jobs / line.decode().strip())

    def kill(self):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


async def test_a_job_of_a_killed_server_runs_on_and_is_adopted(place):
    server = KilledServer(place, TRAIN, {"steps": 3, "meet": {"1": "x"}, "version_at": 2})
    folder = await server.job()
    await place.at("x")
    server.kill()
    assert not is_proven_dead(folder.owner())
    async with place.running(ready=False) as engine:
        await until("adoption", engine.jobs.list)
        record = engine.jobs.get(folder.spec().job_id)
        assert record.state is JobState.RUNNING
        place.let_pass("x")
        ended = await finished(engine, record)
        assert (ended.state, ended.result["first"]) == (JobState.DONE, 0)
        assert place.versions == [("lineage", 1)]


async def test_a_job_whose_runner_was_killed_too_is_lost_and_its_process_ends(place):
    server = KilledServer(place, TRAIN, {"stubborn": True, "meet": {"1": "x"}})
    folder = await server.job()
    await place.at("x")
    server.kill()
    process = folder.process()
    os.kill(folder.owner().pid, signal.SIGKILL)
    await until("the job sees that its runner is gone", lambda: is_proven_dead(process))
    async with place.running(ready=False) as engine:
        await until("adoption", engine.jobs.list)
        ended = await finished(engine, engine.jobs.get(folder.spec().job_id))
        assert (ended.state, ended.reason) == (JobState.FAILED, JobReason.LOST)
        assert "start it again" in ended.message
        assert (await finished(engine, await submit(engine))).state is JobState.DONE


async def test_a_runner_killed_under_a_living_server_is_lost_too(place):
    async with place.running(ready=False) as engine:
        record = await submit(engine, stubborn=True, meet={"1": "x"})
        await place.at("x")
        folder = folder_of(place, record)
        process = folder.process()
        os.kill(folder.owner().pid, signal.SIGKILL)
        ended = await finished(engine, record)
        assert ended.reason is JobReason.LOST
        await until("the job's process ends", lambda: is_proven_dead(process))


async def test_a_recycled_pid_is_not_taken_for_the_runner(place):
    async with place.running(ready=False, leave_jobs=True) as engine:
        record = await submit(engine, stubborn=True, meet={"1": "x"})
        await place.at("x")
    folder = folder_of(place, record)
    owner = folder.owner()
    os.kill(owner.pid, signal.SIGKILL)
    await until("the runner's end", lambda: is_proven_dead(owner))
    me = identity_of()
    folder.write_owner(replace(me, started=me.started - 1))  # this test has the runner's pid now
    async with place.running(ready=False) as engine:
        await until("adoption", engine.jobs.list)
        ended = await finished(engine, record)
        assert ended.reason is JobReason.LOST
    assert identity_of() == me, "and it was not killed for it"


async def test_a_runner_on_another_host_is_not_declared_dead(place):
    async with place.running(ready=False, leave_jobs=True) as engine:
        record = await submit(engine, meet={"1": "x"})
        await place.at("x")
    folder = folder_of(place, record)
    owner = folder.owner()
    folder.write_owner(replace(owner, host="elsewhere"))
    async with place.running(ready=False, leave_jobs=True) as engine:
        await until("adoption", engine.jobs.list)
        assert engine.jobs.get(record.spec.job_id).state is JobState.RUNNING
        place.let_pass("x")
        assert (await finished(engine, record)).state is JobState.DONE, "its files are believed"


async def test_a_runner_that_was_never_let_go_starts_again(place):
    """The server was killed between writing "started" and writing down who the runner is."""
    async with place.running(ready=False) as engine:
        first = await submit(engine, do="meet", name="x")
        await place.at("x")
        record = await submit(engine, enqueue=True)
        await engine.jobs.stop(first.spec.job_id)
        engine._jobs._closing = True  # the next one is not started by this server
        await finished(engine, first)
    folder = folder_of(place, record)
    folder.say(Signal.STARTED, {})
    async with place.running(ready=False) as engine:
        await until("adoption", lambda: len(engine.jobs.list()) == 2)
        assert (await finished(engine, record)).state is JobState.DONE


async def test_a_runner_without_the_word_go_ends_at_once(place):
    async with place.running(ready=False) as engine:
        record = await finished(engine, await submit(engine))
    folder = folder_of(place, record)
    events = folder.events_file.read_bytes()
    command = [sys.executable, str(Path(__file__).parents[1] / "fakes" / "fake_worker.py"), "run-job", str(folder.path)]
    done = await asyncio.to_thread(subprocess.run, command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
    assert done.returncode == 1
    assert folder.events_file.read_bytes() == events


async def test_a_torn_event_line_costs_that_line_alone(place):
    async with place.running(ready=False) as engine:
        record = await submit(engine, steps=6, meet={"2": "x"})
        await place.at("x")
    with folder_of(place, record).events_file.open("ab") as stream:
        stream.write(b'{"ts": 17000')
    place.let_pass("x")
    async with place.running(ready=False) as engine:
        await until("adoption", engine.jobs.list)
        assert (await finished(engine, record)).state is JobState.DONE


async def test_folders_that_were_never_promised_are_swept_and_damaged_ones_are_left_alone(place):
    jobs = place.roots.app / "jobs"
    half, damaged = (jobs / f"3f2b8c1e-0000-4000-8000-00000000000{number}" for number in (1, 2))
    half.mkdir(parents=True)
    (half / ".tmp-1").touch()
    damaged.mkdir()
    (damaged / "spec.json").write_text("{")
    (jobs / "notes of a person").mkdir()
    async with place.running(ready=False) as engine:
        assert (await finished(engine, await submit(engine))).state is JobState.DONE
        assert len(engine.jobs.list()) == 1
    assert not half.exists()
    assert (damaged / "spec.json").exists()
    assert (jobs / "notes of a person").exists()


async def test_an_unknown_job_is_not_found(place):
    unknown = JobId("3f2b8c1e-0000-4000-8000-00000000dead")
    async with place.running(ready=False) as engine:
        with pytest.raises(JobNotFound):
            engine.jobs.get(unknown)
        with pytest.raises(JobNotFound):
            await engine.jobs.stop(unknown)
        with pytest.raises(JobNotFound):
            await engine.jobs.wait(unknown)


async def test_a_batch_runs_image_by_image_on_a_worker(place):
    for name in ("a", "b"):
        (place.roots.studies / f"{name}.img").touch()
    async with place.running() as engine:
        record = await finished(engine, await submit(engine, BATCH, "segmentation", images="all"))
        assert record.state is JobState.DONE
        assert {image: result["label"] for image, result in record.result.items()} == {"a": "a", "b": "b"}
        assert [path for path in (place.roots.state / "spool").rglob("*") if path.is_file()] == []


async def test_a_batch_is_stopped_between_two_images(place):
    async with place.running() as engine:
        record = await submit(engine, BATCH, "segmentation", images=["a", "b"], do="meet", name="x")
        await place.at("x")
        assert (await engine.jobs.stop(record.spec.job_id)).state is JobState.STOPPING
        assert (await finished(engine, record)).state is JobState.STOPPED
        await until("the worker sees the cancel", (place.roots.studies / "cancelled-x").exists)


async def test_a_batch_whose_worker_dies_goes_on_with_the_next_image(place):
    async with place.running() as engine:
        record = await submit(engine, BATCH, "segmentation", images=["a", "b"], do="meet", name="x")
        await place.at("x")
        place.let_pass("x")
        os.kill(engine.worker_pids[0], signal.SIGKILL)
        ended = await finished(engine, record)
        assert ended.state is JobState.DONE
        assert ended.result["b"]["label"] == "b"


@pytest.mark.parametrize("killed", [False, True])
async def test_a_batch_goes_on_after_a_restart_with_the_image_it_was_at(place, killed):
    params = {"images": ["a", "b"], "do": "meet", "name": "x"}
    if killed:
        server = KilledServer(place, BATCH, params)
        folder = await server.job()
        await place.at("x")
        server.kill()
        job_id = folder.spec().job_id
    else:
        async with place.running() as engine:
            job_id = (await submit(engine, BATCH, "segmentation", **params)).spec.job_id
            await place.at("x")
    place.let_pass("x")
    async with place.running() as engine:
        await until("adoption", engine.jobs.list)
        ended = await finished(engine, engine.jobs.get(job_id))
        assert ended.state is JobState.DONE
        assert sorted(ended.result) == ["a", "b"]


async def test_a_stopped_job_is_resumed_where_it_was(place):
    async with place.running(ready=False) as engine:
        record = await submit(engine, steps=5, meet={"2": "x"})
        await place.at("x")
        await engine.jobs.stop(record.spec.job_id)
        assert (await finished(engine, record)).state is JobState.STOPPED
        resumed = await engine.jobs.resume(record.spec.job_id)
        assert resumed.state in (JobState.QUEUED, JobState.STARTING)
        place.let_pass("x")
        ended = await finished(engine, record)
        assert (ended.state, ended.result["first"]) == (JobState.DONE, 3)
        with pytest.raises(IllegalTransition):
            await engine.jobs.resume(record.spec.job_id)


async def test_a_killed_job_is_resumed_and_the_next_server_knows_its_story(place):
    async with place.running(ready=False) as engine:
        record = await submit(engine, steps=3, meet={"1": "x"})
        await place.at("x")
        folder = folder_of(place, record)
        os.kill(folder.process().pid, signal.SIGKILL)
        failed = await finished(engine, record)
        assert (failed.state, failed.reason) == (JobState.FAILED, JobReason.KILLED)
        blocking = await submit(engine, SCORING, "dice")
        await finished(engine, blocking)
        first = await submit(engine, do="meet", name="y")
        await place.at("y")
        queued = await engine.jobs.resume(record.spec.job_id)
        assert (queued.state, queued.reason, queued.message) == (JobState.QUEUED, None, "")
    async with place.running(ready=False) as engine:
        await until("adoption", engine.jobs.list)
        assert engine.jobs.get(record.spec.job_id).state is JobState.QUEUED
        place.let_pass("y")
        place.let_pass("x")
        assert (await finished(engine, first)).state is JobState.DONE
        assert (await finished(engine, record)).state is JobState.DONE
    async with place.running(ready=False) as engine:
        await until("adoption", engine.jobs.list)
        assert engine.jobs.get(record.spec.job_id).state is JobState.DONE


async def test_a_failure_is_logged_with_its_reason_and_what_to_do(place, caplog):
    async with place.running(ready=False) as engine:
        await finished(engine, await submit(engine, do="full"))
    told = next(entry for entry in caplog.records if entry.message == "job failed")
    assert (told.levelname, told.reason) == ("WARNING", "disk_full")
    assert "Free some space" in told.advice


async def test_a_disk_that_is_full_to_the_last_byte_still_tells_why(place):
    async with place.running(ready=False) as engine:
        record = await finished(engine, await submit(engine, do="no more events"))
        assert (record.state, record.reason) == (JobState.FAILED, JobReason.DISK_FULL)
        assert "could not write down more" in record.message


async def test_every_event_is_told_once_with_the_record_after_it(place):
    told = []
    engine = place.engine(on_job_event=lambda record, event: told.append((event.signal, record.state)))
    await engine.start()
    try:
        record = await finished(engine, await submit(engine, steps=2))
    finally:
        await engine.stop()
    states = [state for signal, state in told if signal not in (Signal.LOG, Signal.PROGRESS)]
    assert states == [JobState.QUEUED, JobState.STARTING, JobState.RUNNING, JobState.DONE, JobState.DONE]
    in_folder = folder_of(place, record).control() + folder_of(place, record).events()
    assert len(told) == len(in_folder) + 1, "and the exit"


async def warm_runner(engine):
    warm = engine._jobs._warm
    await engine.jobs.expect()
    assert warm.pid is not None
    return identity_of(warm.pid)


@pytest.fixture
def roomy(monkeypatch):
    monkeypatch.setattr(warm_jobs, "available_memory_bytes", lambda: 10 * 2**30)


async def test_a_warm_process_runs_the_next_job_and_no_other(place, roomy):
    place.settings["warm_job_s"] = 60
    async with place.running(ready=False) as engine:
        first = await warm_runner(engine)
        await engine.jobs.expect()
        assert engine._jobs._warm.pid == first.pid, "one is enough"
        record = await finished(engine, await submit(engine, steps=2))
        assert record.state is JobState.DONE
        folder = folder_of(place, record)
        assert folder.owner() == first
        assert "training begins at step 0" in folder.log_file.read_text()
        assert engine._jobs._warm.pid is None
        again = await finished(engine, await submit(engine, steps=1))
        assert again.state is JobState.DONE
        assert folder_of(place, again).owner().pid != first.pid, "cold, because nobody expected it"
        second = await warm_runner(engine)
    await until("the warm process ends with its server", lambda: is_proven_dead(second))


async def test_a_warm_process_that_loaded_another_app_is_put_away(place, roomy):
    place.settings["warm_job_s"] = 60
    async with place.running(ready=False) as engine:
        warm = await warm_runner(engine)
        (place.roots.app / "main.py").write_text("# changed meanwhile")
        record = await finished(engine, await submit(engine))
        assert record.state is JobState.DONE
        assert folder_of(place, record).owner() != warm
        await until("it ends", lambda: is_proven_dead(warm))


async def test_a_warm_process_that_was_killed_costs_nothing(place, roomy):
    place.settings["warm_job_s"] = 60
    async with place.running(ready=False) as engine:
        warm = await warm_runner(engine)
        os.kill(warm.pid, signal.SIGKILL)
        await until("its death", lambda: is_proven_dead(warm))
        assert (await finished(engine, await submit(engine))).state is JobState.DONE


async def test_a_warm_job_is_stopped_like_any_other(place, roomy):
    place.settings["warm_job_s"] = 60
    async with place.running(ready=False) as engine:
        await warm_runner(engine)
        record = await submit(engine, steps=100, meet={"2": "x"})
        await place.at("x")
        await engine.jobs.stop(record.spec.job_id)
        ended = await finished(engine, record)
        assert (ended.state, ended.progress["epoch"]) == (JobState.STOPPED, 3)


@pytest.mark.parametrize("why", ["time", "memory"])
async def test_a_warm_process_does_not_wait_for_ever(place, roomy, monkeypatch, why):
    monkeypatch.setattr(warm_jobs, "LOOK_EVERY_S", 0.01)
    place.settings["warm_job_s"] = 60
    async with place.running(ready=False) as engine:
        warm = await warm_runner(engine)
        if why == "time":
            engine._jobs._warm._until = 0.0
        else:
            monkeypatch.setattr(warm_jobs, "available_memory_bytes", lambda: 2**29)
        await until("its end", lambda: is_proven_dead(warm))
        assert engine._jobs._warm.pid is None


async def test_no_process_is_kept_unless_the_settings_say_so(place):
    async with place.running(ready=False) as engine:
        await engine.jobs.expect()
        assert engine._jobs._warm.pid is None


async def test_a_job_that_is_done_does_not_refuse_the_next_while_its_process_ends(place):
    async with place.running(ready=False) as engine:
        record = await submit(engine, steps=1)
        job = engine._jobs._jobs[record.spec.job_id]
        await until("the result", lambda: job.record.state is JobState.DONE)
        job.final.clear()
        following = await submit(engine, steps=1)
        assert (await finished(engine, following)).state is JobState.DONE
