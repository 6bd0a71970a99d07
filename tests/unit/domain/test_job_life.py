"""A job's state is the fold of what was written about it, in any history."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelserver.domain.errors import IllegalTransition
from labelserver.domain.ids import JobId
from labelserver.domain.jobs import (
    ADVICE,
    DETAIL_LINES,
    EXIT_REASONS,
    TRANSITIONS,
    JobEvent,
    JobKind,
    JobReason,
    JobSpec,
    JobState,
    Signal,
    fold,
    next_state,
)

SPEC = JobSpec(JobId("01234567-89ab-cdef-0123-456789abcdef"), JobKind.TRAIN, "segmentation", {"a": 1}, "ann", 1.0)


def history(*signals: Signal | tuple[Signal, dict]) -> list[JobEvent]:
    pairs = [s if isinstance(s, tuple) else (s, {}) for s in signals]
    return [JobEvent(float(i + 2), signal, data) for i, (signal, data) in enumerate(pairs)]


def test_a_training_that_ends_well_is_done_with_its_result():
    record = fold(
        SPEC,
        history(
            Signal.STARTED,
            Signal.RUNNING,
            (Signal.PROGRESS, {"epoch": 1}),
            (Signal.PROGRESS, {"loss": 0.5}),
            (Signal.VERSION, {"model": "segmentation", "version": 3}),
            (Signal.RESULT, {"epoch": 1}),
            (Signal.EXITED, {"returncode": 0}),
        ),
    )
    assert record.state is JobState.DONE
    assert record.progress == {"epoch": 1, "loss": 0.5}
    assert record.versions == (("segmentation", 3),)
    assert record.result == {"epoch": 1}
    assert (record.started_ts, record.ended_ts) == (2.0, 7.0)


def test_a_process_that_vanishes_is_killed_and_says_by_what():
    record = fold(SPEC, history(Signal.STARTED, Signal.RUNNING, (Signal.EXITED, {"returncode": -9})))
    assert (record.state, record.reason) == (JobState.FAILED, JobReason.KILLED)
    assert "signal 9" in record.message


def test_a_stopped_job_is_stopped_whether_it_answers_or_is_killed():
    asked = (Signal.STARTED, Signal.RUNNING, Signal.STOP_ASKED)
    assert fold(SPEC, history(*asked)).state is JobState.STOPPING
    assert fold(SPEC, history(*asked, (Signal.RESULT, {}))).state is JobState.STOPPED
    assert fold(SPEC, history(*asked, (Signal.EXITED, {"returncode": -9}))).state is JobState.STOPPED


def test_a_suspended_job_starts_again_and_keeps_its_first_start_time():
    record = fold(
        SPEC,
        history(
            Signal.STARTED, Signal.RUNNING, Signal.SUSPEND_ASKED, (Signal.EXITED, {"returncode": 0}), Signal.STARTED
        ),
    )
    assert record.state is JobState.STARTING
    assert record.started_ts == 2.0


def test_a_failure_keeps_reason_and_message():
    record = fold(SPEC, history(Signal.STARTED, Signal.RUNNING, (Signal.FAILED, {"reason": "no_data", "message": "m"})))
    assert (record.state, record.reason, record.message) == (JobState.FAILED, JobReason.NO_DATA, "m")


def test_only_the_last_lines_are_kept():
    record = fold(SPEC, history(*[(Signal.LOG, {"line": str(i)}) for i in range(50)]))
    assert record.details == tuple(str(i) for i in range(50 - DETAIL_LINES, 50))


def test_the_writer_is_told_about_an_illegal_step():
    assert next_state(JobState.QUEUED, Signal.STARTED) is JobState.STARTING
    with pytest.raises(IllegalTransition, match="done cannot take 'stop_asked'"):
        next_state(JobState.DONE, Signal.STOP_ASKED)


@given(st.lists(st.sampled_from(list(Signal)), max_size=30))
def test_no_history_leaves_a_final_state(signals):
    states = [fold(SPEC, history(*signals[:n])).state for n in range(len(signals) + 1)]
    for (before, after), signal in zip(itertools.pairwise(states), signals, strict=True):
        assert not before.is_final or after is before or signal is Signal.RESUME_ASKED


def test_only_a_wish_to_resume_leaves_a_final_state():
    leaving = {(state, signal) for state, signal in TRANSITIONS if state.is_final}
    assert leaving == {(JobState.STOPPED, Signal.RESUME_ASKED), (JobState.FAILED, Signal.RESUME_ASKED)}


def test_a_resumed_job_is_as_if_it_had_not_failed_and_keeps_its_course():
    failed = (
        Signal.STARTED,
        Signal.RUNNING,
        (Signal.EPOCH, {"epoch": 1, "loss": 0.5}),
        (Signal.EPOCH, {"epoch": 2, "loss": 0.4}),
        (Signal.FAILED, {"reason": "disk_full", "message": "No space."}),
    )
    queued = fold(SPEC, history(*failed, Signal.RESUME_ASKED))
    assert (queued.state, queued.reason, queued.message, queued.ended_ts) == (JobState.QUEUED, None, "", None)
    again = fold(
        SPEC, history(*failed, Signal.RESUME_ASKED, Signal.STARTED, Signal.RUNNING, (Signal.EPOCH, {"epoch": 2}))
    )
    assert again.state is JobState.RUNNING
    assert again.curve == ({"epoch": 1, "loss": 0.5}, {"epoch": 2})
    assert again.started_ts == 2.0


def test_every_reason_says_what_to_do():
    assert set(ADVICE) == set(JobReason)
    assert all(text.endswith(".") and len(text) > 20 for text in ADVICE.values())


@pytest.mark.parametrize(("status", "reason"), EXIT_REASONS.items())
def test_an_exit_status_tells_the_reason_when_no_event_could_be_written(status, reason):
    record = fold(SPEC, history(Signal.STARTED, Signal.RUNNING, (Signal.EXITED, {"returncode": status})))
    assert (record.state, record.reason) == (JobState.FAILED, reason)


def test_a_process_ended_for_want_of_memory_is_told_from_other_kills():
    killed = (Signal.EXITED, {"returncode": -9, "out_of_memory": True})
    record = fold(SPEC, history(Signal.STARTED, Signal.RUNNING, killed))
    assert record.reason is JobReason.OUT_OF_MEMORY
    assert "no memory left" in record.message


def test_specs_and_events_survive_json():
    assert JobSpec.from_json(SPEC.to_json()) == SPEC
    event = JobEvent(3.0, Signal.PROGRESS, {"epoch": 2})
    assert JobEvent.from_json(event.to_json()) == event
