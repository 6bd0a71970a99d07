"""The work of several people on one local store: queue, rules, reviews and times, behind one name."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence

from labelserver.contracts.datastore import Datastore
from labelserver.datastore.image_work import works_in
from labelserver.datastore.index import Index, Inside
from labelserver.datastore.layout import Layout
from labelserver.datastore.offering import Offered
from labelserver.datastore.queue import Asking, WorkQueue, submitted
from labelserver.datastore.reviewing import Reviews
from labelserver.datastore.time_log import TimeLog
from labelserver.datastore.workflow import Workflows
from labelserver.domain.labels import Revision
from labelserver.domain.work import ImageWork, Lease, NoWork, Offer, Workflow

#: A strategy that chooses among what is offered; None if it knows no image.
Strategist = Callable[[Datastore], Offer | None]

#: The store as seen through an index by somebody who is offered some images.
ViewOf = Callable[[Index, Offered], Datastore]


class SharedWork:
    """See the module."""

    def __init__(self, layout: Layout, index: Index, view_of: ViewOf, key: Callable[[], bytes]) -> None:
        self._index = index
        self._view_of = view_of
        self.workflows = Workflows(layout, index)
        self.times = TimeLog(index)
        self.reviews = Reviews(layout, index, self.workflows.current)
        self.queue = WorkQueue(index, self.workflows.current, key)

    @property
    def rules(self) -> Workflow:
        """In force now."""
        return self.workflows.current()

    def take(self, asking: Asking, strategist: Strategist) -> Lease | NoWork:
        """Let a strategy that runs here choose, and lease what it chose, in one transaction."""

        def choose(connection: sqlite3.Connection, offered: Offered) -> Offer | None:
            return strategist(self._view_of(Inside(connection), offered))

        return self.queue.take(asking, choose)

    def accepted(self, connection: sqlite3.Connection, revision: Revision) -> None:
        """Inside the transaction that accepts a label: leases and the time log hear of it."""
        submitted(connection, revision)
        self.times.submitted(connection, revision)

    def works(self, image_ids: Sequence[str]) -> Mapping[str, ImageWork]:
        """Where these images stand."""
        with self._index.reading() as connection:
            return works_in(connection, image_ids, time.time())
