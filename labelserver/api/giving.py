"""From a strategy's answer to a leased image, wherever the strategy runs.

Ready-made strategies choose inside the transaction that leases. An app's own run in the lead worker: what they choose
is leased afterwards if it is still there, else they are asked again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from anyio import to_thread

from labelserver.api.answers import finite
from labelserver.api.context import known_task, table
from labelserver.bootstrap import Server
from labelserver.contracts.datastore import Datastore
from labelserver.datastore.local import LocalDatastore
from labelserver.datastore.queue import Asking
from labelserver.domain.annotation import region_from_json, region_to_json
from labelserver.domain.effort import Sign
from labelserver.domain.errors import InvalidId, InvalidParams, NotThereYet, TaskFailed
from labelserver.domain.ids import parse_image_id
from labelserver.domain.json_types import JsonObject
from labelserver.domain.work import Lease, NoWork, Offer
from labelserver.tasks.planned import READY_MADE, Planned
from labelserver.tasks.strategies import chosen_by

#: How often an app's strategy may choose what somebody else was just given, before any image will do.
_TRIES = 5

#: What an answer of a strategy says apart from details.
_OWN_KEYS = ("id", "name", "path", "why", "roi")


@dataclass(frozen=True, slots=True)
class Asked:
    """Which strategy is asked, with which options, and whether it runs here."""

    strategy: str
    params: JsonObject
    ready_made: str = ""  #: its class, if it runs in this process
    description: str = ""


def asked_of(server: Server, strategy: str, params: JsonObject) -> Asked:
    """Raises `TaskNotFound` for a strategy that the app does not have."""
    description = server.engine.description()
    document = known_task(description, "strategies", strategy, "strategy")
    said = str(document.get("description") or "")
    here = (
        description is not None
        and "next_sample" not in description.overridden_hooks
        and description.local_store is not None
        and description.ready_made_strategies.get(strategy) in READY_MADE
    )
    ready_made = str(description.ready_made_strategies[strategy]) if here and description is not None else ""
    return Asked(strategy, params, ready_made, said)


def default_strategy(server: Server, wished: str) -> str:
    """`wished`, else the app's strategy called default, else random, else its first one."""
    description = server.engine.description()
    names = list(table(description.info, "strategies")) if description is not None else []
    return wished or next((name for name in ("default", "random") if name in names), names[0] if names else "random")


async def local_store(server: Server) -> LocalDatastore:
    """Raises `NotThereYet` where the app brought a store of its own."""

    def in_use() -> Datastore:
        return server.datastore  # may open the store that the app asks for, hence in a thread

    store = await to_thread.run_sync(in_use)
    if not isinstance(store, LocalDatastore):
        raise NotThereYet("The app keeps its images in a store of its own, which knows no leases and no reviews.")
    return store


async def give(server: Server, store: LocalDatastore, asking: Asking, asked: Asked) -> Lease | NoWork:
    """Let the strategy choose for the person, and lease what it chose; his time begins to count."""
    given = await _give(server, store, asking, asked)
    if isinstance(given, Lease):
        store.work.times.note(asking.person, Sign.OPEN, given.image_id)
    return given


async def _give(server: Server, store: LocalDatastore, asking: Asking, asked: Asked) -> Lease | NoWork:
    if asked.ready_made:
        return await to_thread.run_sync(_choose_here, store, asking, asked)
    if asking.resume:
        held = await to_thread.run_sync(_take_nothing_new, store, replace(asking, any_order=False))
        if isinstance(held, Lease):
            return held
    for number in range(_TRIES):
        last = number == _TRIES - 1  # whoever names what is done again and again means it
        request: JsonObject = {**asked.params, "strategy": asked.strategy, "client_id": asking.person}
        answered = await server.engine.call_lead("next_sample", {"request": request})
        if not isinstance(answered, dict) or not answered.get("id"):
            break
        chooser = replace(asking, done_too=asking.done_too or last)
        lease = await to_thread.run_sync(store.work.queue.claim, chooser, _offer(answered, asked))
        if lease is not None:
            return lease
    return await to_thread.run_sync(_take_nothing_new, store, asking)


def _choose_here(store: LocalDatastore, asking: Asking, asked: Asked) -> Lease | NoWork:
    store.side_due()  # sides that are to be fixed are fixed before the transaction begins
    strategy = READY_MADE[asked.ready_made]()
    if isinstance(strategy, Planned):
        strategy.prepare(store)
    request = {**asked.params, "client_id": asking.person}

    def choose(view: Datastore) -> Offer | None:
        chosen = chosen_by(asked.strategy, strategy, request, view)
        return _offer(chosen, asked) if chosen else None

    return store.work.take(asking, choose)


def _take_nothing_new(store: LocalDatastore, asking: Asking) -> Lease | NoWork:
    """What needs no strategy: the image that the person has, one that was returned to him, or, if asked, any."""
    return store.work.take(asking, lambda view: None)


def _offer(chosen: Mapping[str, object], asked: Asked) -> Offer:
    details = finite({key: value for key, value in chosen.items() if key not in _OWN_KEYS})
    if not asked.ready_made:  # an app's answer comes with all that is known about the image
        details = {key: value for key, value in details.items() if not isinstance(value, dict | list)}
    why = str(chosen.get("why") or asked.description or f"Chosen by {asked.strategy}.")
    roi = chosen.get("roi")
    try:
        region = region_to_json(region_from_json(finite(roi))) if roi else None
        return Offer(parse_image_id(str(chosen["id"])), {"why": why, "details": details}, region)
    except (InvalidParams, InvalidId) as error:
        raise TaskFailed(f"The strategy {asked.strategy} named no image or no region of it: {error.message}") from error


def now() -> float:
    """Unix seconds."""
    return time.time()
