"""Who a process is: host, pid and start time. A recycled pid is another process, and that must be provable."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from labelserver.domain.json_types import JsonObject

#: Values of ``GLIBC_TUNABLES``: see `calculating_environment`. Sizes are bytes.
MEMORY_HABITS = {
    "glibc.malloc.hugetlb": 1,
    "glibc.malloc.arena_max": 1,
    "glibc.malloc.mmap_threshold": 128 * 2**20,
    "glibc.malloc.trim_threshold": 512 * 2**20,
    "glibc.malloc.top_pad": 64 * 2**20,
}


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process of a host. `started`: clock ticks after boot (``/proc/<pid>/stat`` field 22); `boot` names the boot."""

    host: str
    pid: int
    started: int
    boot: str

    def to_json(self) -> JsonObject:
        return {"host": self.host, "pid": self.pid, "started": self.started, "boot": self.boot}

    @classmethod
    def from_json(cls, document: JsonObject) -> ProcessIdentity:
        """Raises KeyError or ValueError on another document."""
        return cls(
            str(document["host"]), int(str(document["pid"])), int(str(document["started"])), str(document["boot"])
        )


def identity_of(pid: int | None = None) -> ProcessIdentity | None:
    """The identity of a living process on this host (default: this one); None if it does not exist or is a zombie."""
    pid = os.getpid() if pid is None else pid
    started = _start_ticks(pid)
    return None if started is None else ProcessIdentity(socket.gethostname(), pid, started, _boot_id())


def is_proven_dead(identity: ProcessIdentity) -> bool:
    """True only if the process surely does not run: same host, and gone, replaced, or of an earlier boot."""
    if identity.host != socket.gethostname():
        return False
    if identity.boot != _boot_id():
        return True
    return _start_ticks(identity.pid) != identity.started


def spawn_detached(command: Sequence[str], stdin: int, output: Path) -> int:
    """Start `command` in a session of its own, so that it outlives this process and hears none of its signals.

    Args:
        command: The program, searched on the PATH, and its arguments.
        stdin: A descriptor that becomes the child's standard input.
        output: A file to which the child's output is appended.

    Returns:
        The child's pid. `reap` it from time to time.

    Raises:
        OSError: the program cannot be started.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    actions = [
        (os.POSIX_SPAWN_DUP2, stdin, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.fspath(output), flags, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawnp(command[0], list(command), os.environ, file_actions=actions, setsid=True)


def calculating_environment() -> dict[str, str]:
    """The environment for a child that calculates: this process's, and how its memory is managed.

    A forward pass allocates and frees volumes of tens of MB. By itself glibc gives each of them back to the kernel,
    which hands out, and zeroes, tens of thousands of pages for the next: a fifth of the pass of a small network on one
    core. Here all threads share one heap of large pages (where the kernel grants them to who asks, from glibc 2.35 on)
    of which up to 512 MiB are kept for the next pass; whole volumes, from 128 MiB on, still go back at once. Other
    libraries ignore all that. What somebody has set in ``GLIBC_TUNABLES`` stays.
    """
    habits = ":".join(f"{name}={value}" for name, value in MEMORY_HABITS.items())
    return {"GLIBC_TUNABLES": habits, **os.environ, "PYTHONUNBUFFERED": "1"}


def lead_output_into(file: Path) -> None:
    """From now on append this process's output and errors to `file`. Raises OSError."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def reap(pid: int) -> None:
    """Take notice of a child's end, so that it leaves the process table; does nothing for other processes."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def send_signal(identity: ProcessIdentity, number: signal.Signals, *, group: bool = False) -> bool:
    """Signal a process of this host, or its whole group, unless it is gone. Never hits a recycled pid's new owner.

    Returns:
        False if nobody was there.
    """
    if identity.host != socket.gethostname() or is_proven_dead(identity):
        return False
    try:
        (os.killpg if group else os.kill)(identity.pid, number)
    except ProcessLookupError:
        return False
    return True


def _start_ticks(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
