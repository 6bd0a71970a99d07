"""How much memory this process may still take: the machine's free memory, or less inside a container."""

from __future__ import annotations

from pathlib import Path

#: bytes; assumed where the system does not tell.
UNKNOWN = 2 * 2**30


def available_memory_bytes(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The smaller of what the kernel calls available and what the control group (version 2) still allows."""
    limits = [value for value in (_of_machine(proc), _of_group(cgroup)) if value is not None]
    return max(0, min(limits)) if limits else UNKNOWN


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
