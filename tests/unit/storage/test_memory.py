"""Free memory is the machine's or the container's, whichever is less."""

from __future__ import annotations

from pathlib import Path

from labelserver.storage.memory import UNKNOWN, available_memory_bytes


def test_the_machine_is_asked() -> None:
    assert available_memory_bytes() > 2**20


def test_a_container_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1500000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 500000\n")
    assert available_memory_bytes(tmp_path, tmp_path) == 2_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory_bytes(tmp_path, tmp_path) == 8_192_000


def test_an_unknown_system_is_assumed_small(tmp_path: Path) -> None:
    assert available_memory_bytes(tmp_path, tmp_path) == UNKNOWN
