"""Is the disk nearly full? Said before a save has to be refused."""

from __future__ import annotations

import shutil
from pathlib import Path

#: Below this share of free space people are warned.
LOW_SHARE = 0.05


def low_space(folder: Path) -> str:
    """A sentence if less than 5 % of the folder's disk are free; else ""."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return ""
    if usage.total == 0 or usage.free >= LOW_SHARE * usage.total:
        return ""
    share = 100 * usage.free / usage.total
    return (
        f"The disk of {folder.name or folder} is nearly full: {usage.free / 2**30:.1f} GiB ({share:.1f} %) are free. "
        "Free some space, for example with `labelserver prune`."
    )
