"""What runs beside the routes: watching the studies, ending uploads, scoring at the start and after each training."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine

from anyio import to_thread

from labelserver.api.context import table
from labelserver.bootstrap import Server
from labelserver.contracts.datastore import Datastore
from labelserver.datastore.local import LocalDatastore
from labelserver.datastore.watching import watch
from labelserver.domain.errors import LabelServerError
from labelserver.domain.jobs import JobKind, JobState

logger = logging.getLogger(__name__)

#: seconds between looks at expired uploads, as in the peer.
CLEAN_UP_S = 300.0
#: seconds between looks at what has changed: the store in use, a training that ended.
LOOK_S = 1.0
#: seconds after the start until kept files are looked at, so that the first requests do not wait for it.
FIRST_LOOK_S = 15.0
#: seconds between looks at kept files.
KEPT_LOOK_S = 86400.0
#: seconds between backups of an index that changes: what infos, reviews and times may lose with the index.
BACKUP_S = 900.0
#: who asked for the scorings that nobody asked for.
PERSON = "labelserver"


async def watch_studies(server: Server) -> None:
    """Notice files that arrive or vanish, in whichever local store is in use."""
    if not server.settings.datastore_auto_reload:
        return

    def store_in_use() -> Datastore:
        return server.datastore  # may open the store that the app has just asked for, hence in a thread

    while True:
        store = await to_thread.run_sync(store_in_use)
        task = asyncio.create_task(watch(store)) if isinstance(store, LocalDatastore) else None
        try:
            while await to_thread.run_sync(store_in_use) is store:
                await asyncio.sleep(LOOK_S)
                if task is not None and task.done():
                    task.result()
                    return
        finally:
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


async def end_uploads(server: Server) -> None:
    """Remove uploads that nobody used for long enough."""
    while True:
        try:
            await to_thread.run_sync(server.uploads.remove_expired)
        except (LabelServerError, OSError) as error:
            logger.warning("uploads could not be cleaned up", exc_info=error)
        await asyncio.sleep(CLEAN_UP_S)


async def look_after_the_store(server: Server) -> None:
    """Back up the index when it has changed, at the end once more; find damaged revisions and backups."""
    next_look = FIRST_LOOK_S
    passed = 0.0
    try:
        while True:
            await asyncio.sleep(FIRST_LOOK_S)
            passed += FIRST_LOOK_S
            if passed >= next_look:
                next_look = passed + KEPT_LOOK_S
                await asyncio.to_thread(_with_local_store, server, LocalDatastore.look_after)
            if passed % BACKUP_S < FIRST_LOOK_S:
                await asyncio.to_thread(_with_local_store, server, LocalDatastore.backup_if_changed)
    finally:
        await asyncio.to_thread(_with_local_store, server, LocalDatastore.backup_if_changed)


def _with_local_store(server: Server, work: Callable[[LocalDatastore], object]) -> None:
    store = server.stores.local
    if store is None:
        return
    try:
        work(store)
    except (LabelServerError, OSError) as error:
        logger.warning("the store could not be looked after", extra={"reason": str(error)})


async def keep_scores_fresh(server: Server) -> None:
    """Run every scoring method once the app is ready, and again after each training that succeeded."""
    if not server.settings.auto_update_scoring:
        return
    while not server.engine.readiness().ready:
        await asyncio.sleep(LOOK_S)
    await score_all(server)
    done = _finished_trainings(server)
    while True:
        await asyncio.sleep(LOOK_S)
        finished = _finished_trainings(server)
        if finished - done:
            await score_all(server)
        done = finished


async def score_all(server: Server) -> None:
    """Queue every scoring method that is not waiting or running already."""
    description = server.engine.description()
    methods = table(description.info, "scoring") if description is not None else {}
    under_way = {r.spec.task for r in server.engine.jobs.list(JobKind.SCORING) if not r.state.is_final}
    for method in methods:
        if method in under_way:
            continue
        try:
            await server.engine.jobs.submit(JobKind.SCORING, method, {}, PERSON, enqueue=True)
        except LabelServerError as error:
            logger.warning("scoring could not be started", extra={"method": method}, exc_info=error)


def _finished_trainings(server: Server) -> set[str]:
    return {r.spec.job_id for r in server.engine.jobs.list(JobKind.TRAIN) if r.state is JobState.DONE}


#: Everything that the application starts and stops.
BACKGROUND: tuple[Callable[[Server], Coroutine[object, object, None]], ...] = (
    watch_studies,
    end_uploads,
    look_after_the_store,
    keep_scores_fresh,
)
