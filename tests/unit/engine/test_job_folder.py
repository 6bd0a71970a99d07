"""A job's folder tells the same story whoever reads it, and however it was cut off."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labelserver.domain.errors import StoredDataInvalid
from labelserver.domain.ids import JobId
from labelserver.domain.jobs import JobEvent, JobKind, JobReason, JobSpec, JobState, Signal, fold
from labelserver.engine.job_folder import EventWriter, JobFolder, JobView

SPEC = JobSpec(JobId("3f2b8c1e-0000-4000-8000-000000000001"), JobKind.TRAIN, "liver", {"x": 1}, "ann", 1.0)


@pytest.fixture
def folder(tmp_path):
    folder = JobFolder(tmp_path / SPEC.job_id)
    folder.create(SPEC)
    return folder


def write_line(file, ts, signal, data=None):
    with file.open("a") as stream:
        stream.write(json.dumps(JobEvent(ts, signal, data or {}).to_json()) + "\n")


def test_what_was_created_is_read(folder):
    assert folder.spec() == SPEC
    assert JobView(folder, SPEC).refresh() is None
    assert JobView(folder, SPEC).record.state is JobState.QUEUED


def test_a_folder_without_a_spec_is_invalid(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(StoredDataInvalid, match="no readable spec"):
        JobFolder(tmp_path / "x").spec()
    (tmp_path / "x" / "spec.json").write_text('{"job_id": 1}')
    with pytest.raises(StoredDataInvalid):
        JobFolder(tmp_path / "x").spec()


def test_a_start_puts_the_run_before_away(folder):
    folder.prepare_start({"settings": {}})
    folder.write_exit(1)
    (folder.path / "owner.json").write_text("{}")
    folder.prepare_start({"settings": {"conf": {"token": "x"}}})
    assert folder.exit() is None
    assert not (folder.path / "owner.json").exists()
    assert folder.settings() == {"settings": {"conf": {"token": "x"}}}
    assert (folder.path / "settings.json").stat().st_mode & 0o077 == 0, "it may hold a key"


def test_a_torn_last_line_is_as_if_it_was_never_written(folder):
    view = JobView(folder, SPEC)
    folder.say(Signal.STARTED, {})
    writer = EventWriter(folder)
    writer.write(Signal.RUNNING)
    writer.close()
    with folder.events_file.open("ab") as stream:
        stream.write(b'{"ts": 99, "signal": "resu')
    view.refresh()
    assert view.record.state is JobState.RUNNING
    again = EventWriter(folder)  # the job is taken up again after the crash
    again.write(Signal.LOG, {"line": "on"})
    again.close()
    view.refresh()
    assert view.record.details == ("on",)
    assert JobView(folder, SPEC).refresh() is None


def test_foreign_lines_are_passed_over(folder):
    folder.say(Signal.STARTED, {})
    with folder.events_file.open("a") as stream:
        stream.write('{"ts": 5e12, "signal": "of a later version"}\n{"signal": "running"}\n[1]\n')
    view = JobView(folder, SPEC)
    view.refresh()
    assert view.record.state is JobState.STARTING


def test_a_clock_that_steps_back_does_not_turn_cause_and_effect_round(folder):
    write_line(folder.control_file, 5e12, Signal.STARTED)  # the server's clock was ahead
    writer = EventWriter(folder)
    writer.write(Signal.RUNNING)
    writer.write(Signal.RESULT, {"done": True})
    writer.close()
    view = JobView(folder, SPEC)
    view.refresh()
    assert view.record.state is JobState.DONE
    folder.write_exit(0)
    assert folder.exit().ts >= 5e12
    assert folder.say(Signal.LOST, {}, not_before_ts=view.last_ts).ts >= 5e12


def test_a_line_that_is_read_late_takes_its_place_in_time(folder):
    view = JobView(folder, SPEC)
    write_line(folder.control_file, 1.0, Signal.STARTED)
    write_line(folder.events_file, 2.0, Signal.RUNNING)
    write_line(folder.control_file, 4.0, Signal.STOP_ASKED)
    view.refresh()
    assert view.record.state is JobState.STOPPING
    write_line(folder.events_file, 3.0, Signal.RESULT, {"all": "done"})  # written before the wish, seen after it
    view.refresh()
    assert view.record.state is JobState.DONE


def test_an_exit_without_a_result_is_a_kill(folder):
    view = JobView(folder, SPEC)
    folder.say(Signal.STARTED, {})
    folder.write_exit(-9)
    ended = view.refresh()
    assert ended is not None
    assert ended.data == {"returncode": -9}
    assert (view.record.state, view.record.reason) == (JobState.FAILED, JobReason.KILLED)
    assert "signal 9" in view.record.message


def test_decided_versions_are_remembered(folder):
    assert folder.decided() == set()
    folder.write_decided("liver", 3)
    assert JobFolder(folder.path).decided() == {("liver", 3)}


control_signals = st.sampled_from([Signal.STARTED, Signal.STOP_ASKED, Signal.SUSPEND_ASKED, Signal.LOST])
job_signals = st.sampled_from([Signal.RUNNING, Signal.PROGRESS, Signal.LOG, Signal.RESULT, Signal.FAILED])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.booleans(), control_signals, job_signals, st.booleans(), st.integers(0, 5)),
        min_size=1,
        max_size=12,
    )
)
def test_reading_in_parts_gives_the_same_as_reading_at_once(tmp_path_factory, history):
    """Whatever was written by whom, whenever somebody looked, and however far the clocks were apart."""
    folder = JobFolder(tmp_path_factory.mktemp("jobs") / SPEC.job_id)
    folder.create(SPEC)
    view = JobView(folder, SPEC)
    times = {True: 0.0, False: 0.0}
    for by_server, control, job, looked, step in history:
        times[by_server] += step + (0.5 if by_server else 0.25)
        file, signal = (folder.control_file, control) if by_server else (folder.events_file, job)
        write_line(file, times[by_server], signal, {"line": f"{times}"})
        if looked:
            view.refresh()
    view.refresh()
    late = JobView(folder, SPEC)
    late.refresh()
    events = sorted(folder.control() + folder.events(), key=lambda event: event.ts)
    assert view.record == late.record == fold(SPEC, events)
