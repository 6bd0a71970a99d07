"""One order of the next images, worked out for a large pool: ``python -m labelserver.datastore.plan_process``.

A process of its own, because a second of arithmetic in a thread of the server makes everybody wait who asks meanwhile,
and because its arrays leave with it. Started by `planning.Planner`, which writes to its standard input what to do.
"""

from __future__ import annotations

import json
import logging
import os
import sys

from labelserver.datastore.layout import Layout
from labelserver.datastore.planning import Planner
from labelserver.datastore.rebuilding import index_of
from labelserver.datastore.score_shelf import ScoreShelf

#: below the server and everything that somebody waits for
_NICENESS = 10


def main() -> None:
    """Read ``{"strategy": ..., "layout": ...}`` from standard input and keep the order in the index."""
    logging.basicConfig(level=logging.WARNING)
    os.nice(_NICENESS)
    asked = json.load(sys.stdin)
    layout = Layout.from_json(asked["layout"])
    Planner(layout, index_of(layout), ScoreShelf(layout.scores_file)).make(asked["strategy"])


if __name__ == "__main__":
    main()
