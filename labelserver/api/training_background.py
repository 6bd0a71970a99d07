"""What runs beside the routes for trainings: news of the store, rules that start a training, a warm process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine

from labelserver.api.background import LOOK_S, PERSON
from labelserver.api.context import table
from labelserver.api.store_news import StoreNews
from labelserver.bootstrap import Server
from labelserver.contracts.datastore import Datastore
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.errors import LabelServerError
from labelserver.domain.ids import FINAL
from labelserver.domain.jobs import JobKind
from labelserver.domain.json_types import JsonObject
from labelserver.engine.event_hub import Wanted

logger = logging.getLogger(__name__)

#: seconds between looks for news; a person who watches the page hardly notices it.
NEWS_S = 0.5
SAVED = Wanted(kinds=("label.saved",))


async def tell_news(server: Server) -> None:
    """Publish what happens to labels and images."""
    news, store = StoreNews(server.events), None
    while True:
        found = await asyncio.to_thread(_store_in_use, server)
        if found is not store and store is not None:
            news = StoreNews(server.events)
        store = found
        if isinstance(store, LocalDatastore):
            try:
                await asyncio.to_thread(news.look, store)
            except (LabelServerError, OSError) as error:
                logger.warning("news of the store could not be told", exc_info=error)
        await asyncio.sleep(NEWS_S)


def _store_in_use(server: Server) -> Datastore:
    return server.datastore


async def train_when_due(server: Server) -> None:
    """Start trainings by the rules."""
    if server.triggers.place == 0:
        server.triggers.count([], server.events.last_number)
    while True:
        await asyncio.sleep(LOOK_S)
        try:
            await look_at_triggers(server)
        except (LabelServerError, OSError) as error:
            logger.warning("the training triggers could not be followed", exc_info=error)


async def look_at_triggers(server: Server) -> None:
    """Count new labels, and start a training if a rule says so."""
    await asyncio.to_thread(count_labels, server)
    trainings = server.engine.jobs.list(JobKind.TRAIN)
    last_ts = max((r.spec.created_ts for r in trainings), default=0.0)
    busy = any(not r.state.is_final for r in trainings)
    why = await asyncio.to_thread(server.triggers.why_due, last_ts, training=busy)
    description = server.engine.description()
    if not why or description is None or not server.engine.readiness().ready:
        return
    known = list(table(description.info, "trainers"))
    chosen = [name for name in known if name in server.triggers.triggers.trainers] or known
    for name in chosen:
        logger.info("training starts by itself", extra={"task": name, "reason": why})
        record = await server.engine.jobs.submit(JobKind.TRAIN, name, {}, PERSON, enqueue=True)
        told: JsonObject = {"task": name, "why": why}
        server.events.publish("training.triggered", told, job_id=record.spec.job_id)


def count_labels(server: Server) -> None:
    """Let the rules know of accepted labels. Blocks."""
    found, place, _ = server.events.after(server.triggers.place, SAVED)
    times = [event.ts for event in found if event.data.get("tag") == FINAL]
    if times or place != server.triggers.place:
        server.triggers.count(times, place)


async def expect_jobs(server: Server) -> None:
    """Have a job process ready when the server is, and again when a label was saved or a job has ended."""
    if not server.settings.warm_job_s:
        return
    while not server.engine.readiness().ready:
        await asyncio.sleep(LOOK_S)
    wanted = Wanted(kinds=("label.saved", "job.state"))
    place = server.events.last_number
    while True:
        if not any(r.state.is_active for r in server.engine.jobs.list(JobKind.TRAIN)):
            await server.engine.jobs.expect()
        while not (found := server.events.after(place, wanted))[0]:
            place = found[1]
            await server.events.wait(place, 60.0)
            if server.events.closed:
                return
        place = found[1]


#: What the application starts and stops beside `background.BACKGROUND`.
TRAINING_BACKGROUND: tuple[Callable[[Server], Coroutine[object, object, None]], ...] = (
    tell_news,
    train_when_due,
    expect_jobs,
)
