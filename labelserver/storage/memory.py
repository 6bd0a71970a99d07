"""How much memory this process may still take: the machine's free memory, or less inside a container."""

from __future__ import annotations

import os
from pathlib import Path

#: bytes; assumed where the system does not tell.
UNKNOWN = 2 * 2**30


def available_memory_bytes(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The smaller of what the kernel calls available and what the control group (version 2) still allows."""
    limits = [value for value in (_of_machine(proc), _of_group(cgroup)) if value is not None]
    return max(0, min(limits)) if limits else UNKNOWN


def resident_bytes(pid: int | None = None, proc: Path = Path("/proc")) -> int:
    """Memory that a process holds now (default: this one); 0 where the system does not tell."""
    try:
        pages = int((proc / str(os.getpid() if pid is None else pid) / "statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def memory_kills(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """How many processes the kernel has ended for want of memory: of this control group, else of the machine."""
    for file in (cgroup / "memory.events", proc / "vmstat"):
        try:
            lines = file.read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0


def _of_machine(proc: Path) -> int | None:
    try:
        lines = (proc / "meminfo").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _of_group(cgroup: Path) -> int | None:
    """File cache counts as used in ``memory.current`` but is given back when needed."""
    try:
        most = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        statistics = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return None if most == "max" else int(most) - used + int(statistics.get("inactive_file", "0"))
