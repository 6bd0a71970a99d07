"""A task's progress is what the folder says, and its wish to stop is heard by signal and by file."""

import logging
import subprocess
import sys
import threading

import pytest

from labelserver.domain.ids import JobId
from labelserver.domain.jobs import DETAIL_LINES, JobKind, JobSpec, Signal
from labelserver.engine.job_folder import EventWriter, JobFolder, JobView
from labelserver.storage.device_marks import interactive, is_interactive
from labelserver.worker import job_progress
from labelserver.worker.job_progress import JobProgress, LogToEvents
from tests.support.live_server import wait_until

SPEC = JobSpec(JobId("3f2b8c1e-0000-4000-8000-000000000003"), JobKind.TRAIN, "liver", {}, "ann", 1.0)


@pytest.fixture
def folder(tmp_path):
    folder = JobFolder(tmp_path / SPEC.job_id)
    folder.create(SPEC)
    folder.say(Signal.STARTED, {})
    return folder


@pytest.fixture
def progress(folder, monkeypatch):
    monkeypatch.setattr(job_progress, "LOOK_EVERY_S", 0.0)
    events = EventWriter(folder)
    yield JobProgress(folder, events, folder.path / "marks")
    events.close()


def record(folder):
    view = JobView(folder, SPEC)
    view.refresh()
    return view.record


def test_reports_logs_and_versions_reach_the_record(folder, progress):
    progress.report({"epoch": 1, "loss": float("nan")})
    progress.report({"epoch": 2})
    progress.log("half way")
    progress.version_ready("liver", 4)
    found = record(folder)
    assert found.progress == {"epoch": 2, "loss": None}
    assert found.details == ("half way",)
    assert found.versions == (("liver", 4),)
    assert (progress.job_id, progress.folder) == (SPEC.job_id, folder.path)


def test_a_second_start_is_a_resume(folder, progress):
    assert not progress.resume
    folder.say(Signal.SUSPEND_ASKED, {})
    folder.say(Signal.STARTED, {})
    events = EventWriter(folder)
    assert JobProgress(folder, events, folder.path / "marks").resume
    events.close()


def test_a_signal_is_heard(progress):
    assert not progress.should_stop()
    assert not progress.was_interrupted
    progress.ask_to_stop()
    assert not progress.was_interrupted, "not before the task has looked"
    assert progress.should_stop()
    assert progress.was_interrupted


@pytest.mark.parametrize("wish", [Signal.STOP_ASKED, Signal.SUSPEND_ASKED])
def test_a_wish_in_the_folder_is_heard_without_a_signal(folder, progress, wish):
    folder.say(wish, {})
    assert progress.should_stop()
    assert progress.wish is wish


def test_a_wish_of_an_earlier_run_is_over(folder, progress):
    folder.say(Signal.SUSPEND_ASKED, {})
    folder.say(Signal.STARTED, {})
    assert progress.wish is None
    assert not progress.should_stop()


def test_log_lines_reach_people_without_tracebacks_and_not_by_the_thousand(folder, progress):
    logger = logging.getLogger("a task")
    handler = LogToEvents(progress)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        raise ValueError("secret path")
    except ValueError:
        logger.exception("it went wrong")
    for number in range(3000):
        logger.info("line %d", number)
    logger.removeHandler(handler)
    lines = folder.events()
    assert lines[0].data == {"line": "it went wrong"}
    assert len(lines) < 10 * DETAIL_LINES


def test_a_training_waits_while_people_use_the_device_and_goes_on_after(folder, progress):
    marks = folder.path / "marks"
    with interactive(marks, "cpu"):
        waiting = threading.Thread(target=progress.yield_device, args=("cpu",))
        waiting.start()
        wait_until("it is told", lambda: record(folder).progress.get("paused") is True)
        assert waiting.is_alive()
        progress.yield_device("cuda:0")  # another device is free
    waiting.join(30)
    assert not waiting.is_alive()
    assert record(folder).progress["paused"] is False


def test_a_stop_is_heard_while_the_device_is_taken(folder, progress):
    with interactive(folder.path / "marks", "cuda"):
        progress.ask_to_stop()
        progress.yield_device("cuda:0")
    assert progress.should_stop()


def test_the_mark_of_a_dead_process_is_no_mark(folder):
    marks = folder.path / "marks"
    hold = (
        "import sys, pathlib\nfrom labelserver.storage.device_marks import interactive\n"
        "with interactive(pathlib.Path(sys.argv[1]), 'cpu'):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(marks)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout.readline() == b"held\n"
        assert is_interactive(marks, "cpu")
        with interactive(marks, "cpu"):
            assert is_interactive(marks, "cpu")
        assert is_interactive(marks, "cpu"), "one of two owners has left"
        owner.kill()
        owner.wait()
        assert not is_interactive(marks, "cpu")
    assert not is_interactive(folder.path / "nowhere", "cpu")
