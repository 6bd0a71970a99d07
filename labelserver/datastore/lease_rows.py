"""Rows of the table of leases."""

from __future__ import annotations

import sqlite3

from labelserver.datastore.image_rows import present_image
from labelserver.datastore.offering import Offered
from labelserver.datastore.plain_json import dump, load_object
from labelserver.domain.errors import LeaseNotFound
from labelserver.domain.ids import ImageId, Tag
from labelserver.domain.work import Lease

#: Statement whose rows `lease_in` reads.
LEASES = (
    "SELECT leases.id, image_id, person, tag, strategy, reason, roi, readers, granted_ts, until_ts, length_s "
    "FROM leases JOIN images ON images.id = image_id"
)


def put_lease(connection: sqlite3.Connection, lease: Lease) -> None:
    """Write it; the person has none of this image."""
    roi = dump(lease.roi) if lease.roi is not None else ""
    values = (lease.lease_id, lease.image_id, lease.person, lease.tag, lease.strategy, dump(lease.reason), roi)
    connection.execute(
        "INSERT INTO leases (id, image_id, person, tag, strategy, reason, roi, granted_ts, until_ts, length_s) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*values, lease.granted_ts, lease.until_ts, lease.length_s),
    )


def held_by(connection: sqlite3.Connection, offered: Offered, *, oldest: bool = False) -> Lease | None:
    """A lease in force of this person, by default the newest; of an image that still needs work."""
    order = "ASC" if oldest else "DESC"
    row = connection.execute(
        f"{LEASES} WHERE person = ? AND until_ts > ? AND open = 1 ORDER BY granted_ts {order} LIMIT 1",
        (offered.person, offered.now),
    ).fetchone()
    return None if row is None else lease_in(row)


def renewed(connection: sqlite3.Connection, lease: Lease, now: float) -> Lease:
    """The lease, in force for its full length from `now` (Unix seconds) on. Raises `ImageNotFound`."""
    present_image(connection, lease.image_id)
    connection.execute("UPDATE leases SET until_ts = ? WHERE id = ?", (now + lease.length_s, lease.lease_id))
    return lease_in(connection.execute(f"{LEASES} WHERE leases.id = ?", (lease.lease_id,)).fetchone())


def own_lease(connection: sqlite3.Connection, lease_id: str, person: str) -> Lease:
    """The person's lease of this id, in force or not. Raises `LeaseNotFound`."""
    row = connection.execute(f"{LEASES} WHERE leases.id = ?", (lease_id,)).fetchone()
    if row is None or row[2] != person:
        raise LeaseNotFound(
            "You have no lease of this id: it was given back, its label was submitted, or it is somebody else's. "
            "Ask for an image with POST /api/v1/queue/next."
        )
    return lease_in(row)


def lease_in(row: tuple[object, ...]) -> Lease:
    """A row of `LEASES`."""
    lease_id, image_id, person, tag, strategy, reason, roi, readers, granted, until, length = row
    return Lease(
        str(lease_id),
        ImageId(str(image_id)),
        str(person),
        Tag(str(tag)),
        str(strategy),
        load_object(str(reason)),
        load_object(str(roi)) if roi else None,
        int(str(readers)),
        float(str(granted)),
        float(str(until)),
        float(str(length)),
    )
