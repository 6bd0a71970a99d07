"""The keys of the projects that tests make: which case is held out, or goes to two people, is no matter of chance."""

from __future__ import annotations

from pathlib import Path

from labelserver.datastore.split_rule import fix_rule
from labelserver.domain.splits import SplitRule

#: Of projects that are made in the process of the tests.
PROJECT_KEY = bytes(32)

#: Of projects that servers make in processes of their own. Chosen: it gives no image of theirs to two people, and
#: holds some, but not most, of each of their sets of cases out.
SERVED_KEY = bytes([27]) * 32


def fix_split(studies: Path, share: float = 0.2) -> None:
    """Give the key to a project that another process will make; one that was made already keeps its own."""
    if not (studies / ".labelserver").exists():
        fix_rule(studies / ".labelserver", SplitRule(SERVED_KEY, share))
