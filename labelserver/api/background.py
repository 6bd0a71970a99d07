"""What runs beside the routes: watching the studies, ending uploads, scoring at the start and after each training."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine

from anyio import to_thread

from labelserver.api.adopting import adopt_weights
from labelserver.api.context import table
from labelserver.api.stability import compare_versions
from labelserver.app.proof import measure_some
from labelserver.bootstrap import Server
from labelserver.contracts.datastore import Datastore
from labelserver.datastore.local import LocalDatastore
from labelserver.datastore.watching import watch
from labelserver.domain.errors import LabelServerError
from labelserver.domain.jobs import ALL_METHODS, JobKind, JobState
from labelserver.domain.json_types import JsonObject

logger = logging.getLogger(__name__)

#: seconds between looks at expired uploads, as in the peer.
CLEAN_UP_S = 300.0
#: seconds between looks at leases, as in nnInteractive's own server.
LEASES_S = 15.0
#: seconds between looks at what has changed: the store in use, a training that ended.
LOOK_S = 1.0
#: seconds after the start until kept files are looked at, so that the first requests do not wait for it.
FIRST_LOOK_S = 15.0
#: seconds between looks at kept files.
KEPT_LOOK_S = 86400.0
#: seconds of each look that go into finding images with the same voxels; four fifths of them are pauses.
COMPARE_S = 4.0
#: seconds between backups of an index that changes: what infos, reviews and times may lose with the index.
BACKUP_S = 900.0
#: who asked for the scorings that nobody asked for.
PERSON = "labelserver"


async def adopt_when_ready(server: Server) -> None:
    """Take the weights that lie in the app as version 0, once the app can say which they are."""
    while not server.engine.readiness().ready:
        await asyncio.sleep(LOOK_S)
    await adopt_weights(server)


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


async def end_sessions(server: Server) -> None:
    """Remove interactive sessions that nobody used for long enough; at the end, bring the others to the disk."""
    try:
        while True:
            try:
                await server.interactions.held.expire()
            except (LabelServerError, OSError) as error:
                logger.warning("sessions could not be cleaned up", exc_info=error)
            await asyncio.sleep(CLEAN_UP_S)
    finally:
        await server.interactions.held.stop()


async def rest_leases(server: Server) -> None:
    """Let clients of nnInteractive that are gone, or do nothing, give up their places."""
    while True:
        await asyncio.sleep(LEASES_S)
        try:
            await server.leases.rest()
        except (LabelServerError, OSError) as error:
            logger.warning("leases could not be looked at", exc_info=error)


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
                await asyncio.to_thread(_with_local_store, server, lambda store: store.upkeep.look_after())
            await asyncio.to_thread(_with_local_store, server, lambda store: store.upkeep.compare_some(COMPARE_S))
            await asyncio.to_thread(_with_local_store, server, lambda store: store.upkeep.check_imports(COMPARE_S))
            if passed % BACKUP_S < FIRST_LOOK_S:
                await asyncio.to_thread(_with_local_store, server, lambda store: store.upkeep.backup_if_changed())
    finally:
        _with_local_store(server, lambda store: store.upkeep.break_off())
        await asyncio.to_thread(_with_local_store, server, lambda store: store.upkeep.backup_if_changed())


async def keep_times(server: Server) -> None:
    """Write the time log, compare proposals with labels, and versions with each other."""
    try:
        while True:
            await asyncio.sleep(LOOK_S)
            await asyncio.to_thread(_with_local_store, server, measure_some)
            if server.settings.auto_update_scoring:
                await compare_versions(server)
    finally:
        await asyncio.to_thread(_with_local_store, server, lambda store: store.work.times.flush())


def _with_local_store(server: Server, work: Callable[[LocalDatastore], object]) -> None:
    store = server.stores.local
    if store is None:
        return
    try:
        work(store)
    except (LabelServerError, OSError) as error:
        logger.warning("the store could not be looked after", extra={"reason": str(error)})


async def keep_scores_fresh(server: Server) -> None:
    """Bring the scores up to date once the app is ready, and after each training that succeeded."""
    if not server.settings.auto_update_scoring:
        return
    while not server.engine.readiness().ready:
        await asyncio.sleep(LOOK_S)
    done = _finished_trainings(server)
    await score_all(server)
    while True:
        await asyncio.sleep(LOOK_S)
        finished = _finished_trainings(server)
        if finished - done and await score_all(server):
            done = finished


async def score_all(server: Server) -> bool:
    """Queue one job for all scoring methods; False while one waits already, which will see what is stale by then."""
    description = server.engine.description()
    methods = table(description.info, "scoring") if description is not None else {}
    if description is None or not methods:
        return True
    jobs = [r for r in server.engine.jobs.list(JobKind.SCORING) if not r.state.is_final]
    if any(r.spec.task == ALL_METHODS and not r.state.is_active for r in jobs):
        return True
    if any(r.spec.task == ALL_METHODS for r in jobs):
        return False
    # An app with a scoring() of its own may not know the name for all.
    wanted = list(methods) if "scoring" in description.overridden_hooks else [ALL_METHODS]
    params: JsonObject = {"budget_s": server.settings.scoring_budget_s} if server.settings.scoring_budget_s else {}
    under_way = {r.spec.task for r in jobs}
    for method in wanted:
        if method in under_way:
            continue
        try:
            await server.engine.jobs.submit(JobKind.SCORING, method, params, PERSON, enqueue=True)
        except LabelServerError as error:
            logger.warning("scoring could not be started", extra={"method": method}, exc_info=error)
    return True


def _finished_trainings(server: Server) -> set[str]:
    return {r.spec.job_id for r in server.engine.jobs.list(JobKind.TRAIN) if r.state is JobState.DONE}


#: Everything that the application starts and stops.
BACKGROUND: tuple[Callable[[Server], Coroutine[object, object, None]], ...] = (
    adopt_when_ready,
    watch_studies,
    end_uploads,
    end_sessions,
    rest_leases,
    look_after_the_store,
    keep_scores_fresh,
    keep_times,
)
