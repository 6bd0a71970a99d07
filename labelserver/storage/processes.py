"""Who a process is: host, pid and start time. A recycled pid is another process, and that must be provable."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from labelserver.domain.json_types import JsonObject


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
