"""Where images stand in the work of several people, for lists and single images."""
# ruff: noqa: S608  statements are put together from constants alone

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from labelserver.datastore.work_schema import submitted_readings
from labelserver.domain.ids import ImageId
from labelserver.domain.work import Flag, ImageWork, Stage


def works_in(connection: sqlite3.Connection, image_ids: Sequence[str], now: float) -> dict[str, ImageWork]:
    """By image id; unknown ids are left out."""
    marks = ", ".join("?" * len(image_ids))
    rows = connection.execute(
        f"SELECT images.id, stage, readers, ({submitted_readings('images.id')}), flags.person, flags.reason, "
        "flags.created_ts, (SELECT MAX(until_ts) FROM leases WHERE leases.image_id = images.id) "
        f"FROM images LEFT JOIN flags ON flags.image_id = images.id WHERE images.id IN ({marks})",
        image_ids,
    ).fetchall()
    found: dict[str, ImageWork] = {}
    for image_id, stage, readers, read, flagged_by, reason, flagged_ts, until in rows:
        flag = Flag(ImageId(image_id), flagged_by, reason, flagged_ts) if flagged_by is not None else None
        holders: list[str] = []
        if until is not None and until > now:
            holders = [
                row[0]
                for row in connection.execute(
                    "SELECT person FROM leases WHERE image_id = ? AND until_ts > ? ORDER BY granted_ts", (image_id, now)
                )
            ]
        shown = Stage.DRAFT if holders and stage == Stage.UNLABELED else Stage(stage)
        held_until = float(until) if holders else None
        found[image_id] = ImageWork(shown, int(readers), int(read), tuple(holders), held_until, flag)
    return found
