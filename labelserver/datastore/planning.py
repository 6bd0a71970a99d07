"""The order in which a strategy would give out the next images, worked out before somebody asks.

An order is a column of scores (``plan.<strategy>``) over some dozen images, so that giving one out is a look-up along
the index, also for people to whom others' images do not exist. It is made anew when scores have changed, when half of
it is used up, or when it is not there. Small pools are planned while the caller waits, which takes some milliseconds;
large ones in a process of its own (`plan_process`), and meanwhile the old order serves. Every order is a line of
``plans.jsonl``: with it, the labels and the scores of then, the same order can be computed again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from labelserver.contracts.scores import INTENSITY
from labelserver.datastore.index import Index
from labelserver.datastore.layout import Layout
from labelserver.datastore.plain_json import load_object
from labelserver.datastore.rebuilding import put_scores
from labelserver.datastore.score_shelf import Columns, ScoreShelf
from labelserver.domain.json_types import JsonObject
from labelserver.learning.choosing import CHOOSERS
from labelserver.learning.image_features import standardised
from labelserver.learning.pool import Pick, Pool
from labelserver.storage.append import append_json_line

logger = logging.getLogger(__name__)

_Float = TypeVar("_Float", bound=np.floating)

#: images that an order holds: as many as there are labels, between these
_LEAST, _MOST = 8, 64
#: labels at which the schedule of the noise is at its end
_PLANNED_LABELS = 200
#: a pool of so many waiting images is planned while somebody waits
_AT_ONCE = 2000
#: seconds that an order of a large pool lasts while a scoring goes on
_PATIENCE_S = 60.0
#: seconds that the process may take which makes the order of a large pool; 100 000 images take about two
_PROCESS_S = 600.0
#: what it calculates with: the other cores are for those who ask
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
#: share of the waiting images that must have an embedding of the model before it is used
_ENOUGH = 0.9


#: Somebody has the image now; `{}` is an SQL expression for its id.
_HELD = "EXISTS (SELECT 1 FROM leases WHERE leases.image_id = {} AND until_ts > ?)"


def plan_key(strategy: str) -> str:
    """Name of the column of scores that is the strategy's order."""
    return f"plan.{strategy}"


@dataclass(frozen=True, slots=True)
class _Made:
    """What an order was made from."""

    revision: int
    count: int
    ts: float


class Planner:
    """Orders of one store."""

    def __init__(self, layout: Layout, index: Index, shelf: ScoreShelf) -> None:
        self._layout, self._index, self._shelf = layout, index, shelf
        self._guard = threading.Lock()
        self._busy: set[str] = set()

    def plan(self, strategy: str) -> None:
        """See `contracts.scores.PlanStore`."""
        made = self._made(strategy)
        revision = self._shelf.revision
        with self._index.reading() as connection:
            waiting = _count(connection, "SELECT COUNT(*) FROM (SELECT 1 FROM images WHERE waiting = 1 LIMIT ?)")
            left = connection.execute(
                f"SELECT COUNT(*) FROM scores WHERE key = ? AND waiting = 1 AND NOT {_HELD.format('scores.image_id')}",  # noqa: S608  constants
                (plan_key(strategy), time.time()),
            ).fetchone()[0]
        small = waiting <= _AT_ONCE
        if made is not None and (left * 2 > made.count or left >= waiting):
            fresh = made.revision == revision or (not small and time.time() - made.ts < _PATIENCE_S)
            if fresh:
                return
        if small:
            self.make(strategy)
        else:
            self._in_background(strategy)  # an old order, or chance, serves until it is done

    def make(self, strategy: str) -> list[Pick]:
        """Work the order out and keep it. Returns it."""
        revision = self._shelf.revision
        pool, version = self._pool()
        count = min(_MOST, max(_LEAST, pool.labels))
        seed = int.from_bytes(hashlib.sha256(f"{strategy}/{pool.labels}/{version}".encode()).digest()[:4], "big")
        picks = CHOOSERS[strategy].choose(pool, count, seed)
        made: dict[str, object] = {"revision": revision, "count": len(picks), "ts": time.time()}
        made["reasons"] = {pick.image_id: pick.reason for pick in picks}
        with self._index.writing(relaxed=True) as connection:
            connection.execute("DELETE FROM scores WHERE key = ?", (plan_key(strategy),))
            for rank, pick in enumerate(picks):
                if connection.execute("SELECT 1 FROM images WHERE id = ?", (pick.image_id,)).fetchone():
                    put_scores(connection, pick.image_id, {plan_key(strategy): -float(rank)})
            connection.execute(
                "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (plan_key(strategy), json.dumps(made))
            )
        self._log(strategy, pool, version, seed, picks)
        return picks

    def reason(self, connection: sqlite3.Connection, strategy: str, image_id: str) -> str:
        """Why the image stands in the order."""
        row = connection.execute("SELECT value FROM meta WHERE key = ?", (plan_key(strategy),)).fetchone()
        reasons = load_object(row[0]).get("reasons") if row else None
        return str(reasons.get(image_id, "")) if isinstance(reasons, dict) else ""

    def pool(self) -> Pool:
        """The waiting images with what is known of them."""
        return self._pool()[0]

    def _pool(self) -> tuple[Pool, str]:
        """The pool, and which looks it was made from. What somebody has now will have a label soon."""
        with self._index.reading() as connection:
            held = {r[0] for r in connection.execute("SELECT image_id FROM leases WHERE until_ts > ?", (time.time(),))}
            rows_of = connection.execute("SELECT id FROM images WHERE waiting = 1 ORDER BY id")
            waiting = [r[0] for r in rows_of if r[0] not in held]
            labelled = [
                r[0]
                for r in connection.execute(
                    "SELECT image_id FROM labels WHERE tag = 'final' AND shown = 1 ORDER BY image_id"
                )
            ]
        kinds = self._shelf.summary()
        # A new version replaces the looks of the old one image by image: the one that knows more is followed.
        networks = sorted((k for k in kinds if k["kind"] != INTENSITY), key=lambda k: -int(str(k["images"])))
        scored = self._shelf.columns(str(networks[0]["kind"]), str(networks[0]["version"])) if networks else None
        plain = next((k for k in kinds if k["kind"] == INTENSITY), None)
        coarse = self._shelf.columns(INTENSITY, str(plain["version"])) if plain else None
        rows = _rows(scored, waiting) if scored is not None else np.full(len(waiting), -1)
        own = scored is not None and scored.embeddings.shape[1] > 0 and bool((rows >= 0).mean() >= _ENOUGH)
        source = scored if own else coarse
        embeddings, covered = _embeddings(source, waiting, [*labelled, *sorted(held.difference(labelled))])
        pool = Pool(
            tuple(waiting),
            {name: _taken(column, rows) for name, column in scored.scores.items()} if scored is not None else {},
            _taken(scored.classes, rows) if scored is not None else np.empty((0, 0)),
            embeddings,
            covered,
            labels=len(labelled),
            progress=len(labelled) / _PLANNED_LABELS,
            has_model=scored is not None,
        )
        used = (scored, source) if scored is not None else (source,)
        return pool, "+".join(f"{c.kind}@{c.version}" for c in dict.fromkeys(used) if c is not None)

    def _made(self, strategy: str) -> _Made | None:
        with self._index.reading() as connection:
            row = connection.execute("SELECT value FROM meta WHERE key = ?", (plan_key(strategy),)).fetchone()
        if row is None:
            return None
        found = load_object(row[0])
        revision, count = (int(str(found.get(name, -1))) for name in ("revision", "count"))
        return _Made(revision, count, float(str(found.get("ts", 0.0))))

    def _in_background(self, strategy: str) -> None:
        with self._guard:
            if strategy in self._busy:
                return
            self._busy.add(strategy)
        threading.Thread(target=self._make_elsewhere, args=(strategy,), name=f"plan-{strategy}", daemon=True).start()

    def _make_elsewhere(self, strategy: str) -> None:
        """Have another process make it, and wait for that."""
        asked = json.dumps({"strategy": strategy, "layout": self._layout.to_json()})
        command = (sys.executable, "-m", "labelserver.datastore.plan_process")
        try:
            subprocess.run(
                command,
                input=asked,
                env={**os.environ, **_ONE_THREAD},
                capture_output=True,
                text=True,
                timeout=_PROCESS_S,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            told = str(getattr(error, "stderr", None) or error).strip().splitlines()
            reason = told[-1] if told else type(error).__name__
            logger.warning("the next images could not be planned", extra={"strategy": strategy, "reason": reason})
        finally:
            with self._guard:
                self._busy.discard(strategy)

    def _log(self, strategy: str, pool: Pool, version: str, seed: int, picks: list[Pick]) -> None:
        known = hashlib.sha256("\n".join(pool.ids).encode()).hexdigest()[:16]
        line: JsonObject = {
            "ts": time.time(),
            "strategy": strategy,
            "seed": seed,
            "labels": pool.labels,
            "looks": version,
            "pool": {"images": len(pool), "hash": known},
            "picks": [pick.image_id for pick in picks],
        }
        append_json_line(self._layout.state / "plans.jsonl", line, sync=False)


def _count(connection: sqlite3.Connection, statement: str) -> int:
    return int(connection.execute(statement, (_AT_ONCE + 1,)).fetchone()[0])


def _rows(columns: Columns, ids: list[str]) -> NDArray[np.intp]:
    """Row of each image, -1 where there is no look."""
    return np.fromiter((columns.rows.get(i, -1) for i in ids), dtype=np.intp, count=len(ids))


def _taken(values: NDArray[_Float], rows: NDArray[np.intp]) -> NDArray[_Float]:
    """`values` of the rows, NaN for -1."""
    found = np.full((len(rows), *values.shape[1:]), np.nan, values.dtype)
    if len(values):
        found[rows >= 0] = values[rows[rows >= 0]]
    return found


def _embeddings(
    source: Columns | None, waiting: list[str], labelled: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of waiting and labelled images, in one standardised space; labelled ones that are not known are left out."""
    if source is None or source.embeddings.shape[1] == 0:
        return np.empty((len(waiting), 0)), np.empty((0, 0))
    both = standardised(np.concatenate([_taken(source.embeddings, _rows(source, ids)) for ids in (waiting, labelled)]))
    covered = both[len(waiting) :]
    return both[: len(waiting)], covered[np.isfinite(covered).all(axis=1)]
