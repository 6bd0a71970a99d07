"""What the benchmarks print and write: one section of ``docs/benchmarks.md`` each, one limit a line.

A section is replaced whole when its benchmark ran; the others stay as they were.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"

_INTRO = """# Benchmarks

`make bench` measures and writes this page; it fails if a line is beyond its limit. Speeds are ratios against what the
machine itself can do, taken in the same run and in turn, because a time alone says more about the machine.
"""


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all are not above."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, max(0, -int(-len(ranked) * share // 1) - 1))]


@dataclass
class Section:
    """A table under a title. Leave the ``with`` block to print and write it, and to fail beyond a limit."""

    title: str
    about: str
    lines: list[tuple[str, str, str, str]] = field(default_factory=list)
    beyond: list[str] = field(default_factory=list)

    def __enter__(self) -> Section:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            self._write()
            assert not self.beyond, "; ".join(self.beyond)

    def at_most(self, what: str, value: float, limit: float, unit: str = "x", detail: str = "") -> None:
        """A measured value with its limit. `detail` tells what it was made from, such as the milliseconds."""
        if value > limit:
            self.beyond.append(f"{what}: {value:.3g} {unit}, at most {limit:g}")
        verdict = "beyond" if value > limit else "within"
        self.lines.append((what, f"{value:.3g} {unit}", f"{limit:g} {unit}, {verdict}", detail))

    def at_least(self, what: str, value: float, limit: float, unit: str, detail: str = "") -> None:
        """As `at_most`, for what may not be too small."""
        if value < limit:
            self.beyond.append(f"{what}: {value:.3g} {unit}, at least {limit:g}")
        verdict = "beyond" if value < limit else "within"
        self.lines.append((what, f"{value:.3g} {unit}", f"at least {limit:g} {unit}, {verdict}", detail))

    def note(self, what: str, value: str, detail: str = "") -> None:
        """A value without a limit."""
        self.lines.append((what, value, "", detail))

    def _write(self) -> None:
        machine = (
            f"{os.cpu_count()} cores, Python {platform.python_version()}, {time.strftime('%Y-%m-%d', time.gmtime())}"
        )
        table = [
            "| | measured | limit | made from |",
            "|---|---|---|---|",
            *("| " + " | ".join(x) + " |" for x in self.lines),
        ]
        text = "\n".join([f"## {self.title}", "", self.about, "", *table, "", f"Measured on {machine}.", ""])
        print(f"\n{text}")
        kept = PAGE.read_text().split("\n## ")[1:] if PAGE.exists() else []
        sections = {part.split("\n", 1)[0]: f"## {part.rstrip()}\n" for part in kept}
        sections[self.title] = text
        PAGE.write_text("\n".join([_INTRO, *sections.values()]))
