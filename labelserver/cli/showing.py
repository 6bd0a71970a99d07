"""Tables and progress bars on a terminal; plain, unbroken lines into a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

#: characters; rich would break lines at 80 where nobody looks at a terminal.
PIPE_WIDTH = 200


def console() -> Console:
    """Standard output as rich sees it."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH, highlight=False)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """A table, or the sentence `empty` if there are no rows."""
    from rich.box import SIMPLE
    from rich.markup import escape
    from rich.table import Table

    listed = [[escape(str(cell)) for cell in row] for row in rows]
    if not listed:
        console().print(empty, markup=False)
        return
    table = Table(*columns, title=title, box=SIMPLE, title_justify="left")
    for row in listed:
        table.add_row(*row)
    console().print(table)


def progress_bar() -> Progress:
    """A bar with the time that is left and free text (field ``said``)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[said]}"),
        console=console(),
    )


def moment(unix_s: object) -> str:
    """Local time of a Unix time stamp; "" for none."""
    return f"{datetime.fromtimestamp(unix_s):%Y-%m-%d %H:%M:%S}" if isinstance(unix_s, int | float) else ""


def size_text(size_bytes: float) -> str:
    """Bytes for people, in powers of 1024."""
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} GiB"
