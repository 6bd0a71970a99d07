"""All revisions, one after the other, in a store of any size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from labelserver.datastore.index import Index

#: revisions looked up at once
_PAGE = 1000


class KeptRevision(NamedTuple):
    """What the index says of a revision's file."""

    image_id: str
    tag: str
    number: int
    ext: str
    sha256: str
    size_bytes: int
    created_ts: float  #: Unix seconds
    masked: bool  #: 0 or 1; it may have a mask of what was annotated


def walk_revisions(index: Index) -> Iterator[KeptRevision]:
    """Page by page, so that no transaction stays open while files are read."""
    place = ("", "", 0)
    while True:
        with index.reading() as connection:
            page = connection.execute(
                "SELECT image_id, tag, number, ext, sha256, size_bytes, created_ts, "
                "instr(info, '\"annotated\"') > 0 AND instr(info, '\"mask\"') > 0 FROM revisions "
                "WHERE (image_id, tag, number) > (?, ?, ?) ORDER BY image_id, tag, number LIMIT ?",
                (*place, _PAGE),
            ).fetchall()
        yield from (KeptRevision(*row) for row in page)
        if len(page) < _PAGE:
            return
        place = page[-1][:3]
