"""Processes that outlive their starter, and signals that never hit a stranger."""

import os
import signal
import sys
import time
from dataclasses import replace

import pytest

from labelserver.storage.processes import identity_of, is_proven_dead, reap, send_signal, spawn_detached


def until_dead(identity):
    deadline = time.monotonic() + 20
    while not is_proven_dead(identity):
        assert time.monotonic() < deadline, "the process did not end"
        os.sched_yield()


@pytest.fixture
def pipe():
    read, write = os.pipe()
    yield read, write
    for descriptor in (read, write):
        os.close(descriptor)


def test_a_detached_process_has_a_session_a_stdin_and_a_log_of_its_own(tmp_path, pipe):
    read, write = pipe
    log = tmp_path / "log"
    log.write_text("before\n")
    code = "import os, sys; print(sys.stdin.readline(), os.getsid(0) == os.getpid()); sys.stderr.write('oh')"
    pid = spawn_detached([sys.executable, "-c", code], read, log)
    identity = identity_of(pid)
    os.write(write, b"go\n")
    until_dead(identity)
    reap(pid)
    assert not os.path.exists(f"/proc/{pid}")  # noqa: PTH110 - a process, not a file
    assert log.read_text().splitlines() == ["before", "go", " True", "oh"]


def test_a_program_that_does_not_exist_is_an_error(tmp_path, pipe):
    with pytest.raises(OSError, match="nonexistent"):
        spawn_detached(["/nonexistent/program"], pipe[0], tmp_path / "log")


def test_reaping_somebody_elses_process_does_nothing():
    reap(os.getppid())


def test_a_signal_reaches_the_process_it_is_meant_for(tmp_path, pipe):
    pid = spawn_detached([sys.executable, "-c", "import sys; sys.stdin.read()"], pipe[0], tmp_path / "log")
    identity = identity_of(pid)
    assert not send_signal(replace(identity, started=identity.started - 1), signal.SIGKILL), "a recycled pid"
    assert not send_signal(replace(identity, host="elsewhere"), signal.SIGKILL)
    assert not is_proven_dead(identity)
    assert send_signal(identity, signal.SIGKILL, group=True)
    until_dead(identity)
    reap(pid)
    assert not send_signal(identity, signal.SIGKILL)
