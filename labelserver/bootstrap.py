"""Settings become a wired server here, and only here: the one place where concrete parts meet.

`build_server` takes the two locks first, so that a second server on the same app or studies folder stops with a
sentence that names the first, before it has touched anything.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labelserver.app.code_hash import code_hash
from labelserver.contracts.datastore import Datastore
from labelserver.contracts.engine import Engine
from labelserver.contracts.labels import SchemaStore
from labelserver.contracts.model_store import ModelStore
from labelserver.datastore.local import LocalDatastore
from labelserver.datastore.through_lead import DatastoreThroughLead
from labelserver.datastore.uploads import UploadStore
from labelserver.domain.app_description import AppDescription
from labelserver.domain.errors import InvalidSetting, LabelServerError
from labelserver.domain.hosts import is_loopback
from labelserver.domain.json_types import JsonObject
from labelserver.domain.paths import Roots
from labelserver.domain.schema import app_label_names
from labelserver.engine.event_hub import EventHub
from labelserver.engine.job_events import JobEvents, version_event
from labelserver.engine.local import LocalEngine
from labelserver.engine.no_app import NoAppEngine
from labelserver.engine.trigger_book import TriggerBook
from labelserver.interaction.leases import LeaseBook
from labelserver.interaction.service import Interactions
from labelserver.model_store.gate import Gate
from labelserver.model_store.local import LocalModelStore
from labelserver.settings import Settings
from labelserver.storage.locks import OwnerLock
from labelserver.viewing.ras_volumes import RasVolumes

logger = logging.getLogger(__name__)


class StoreInUse:
    """Which datastore the server serves: the local one, the same with the app's arguments, or the app's own.

    The answer follows the app's description, which the lead worker gives after it has loaded the app.
    """

    def __init__(self, engine: Engine, default: Datastore, reopen: Callable[[JsonObject], Datastore]) -> None:
        self._engine = engine
        self._default = default
        self._reopen = reopen
        self._lock = threading.Lock()
        self._arguments: JsonObject | None = {}
        self._store = default
        self._learned: list[str] = []
        self._looked_at: AppDescription | None = None  #: nothing of it is news

    def current(self) -> Datastore:
        """The store that the app as described now asks for."""
        description = self._engine.description()
        with self._lock:
            if description is not None and description is self._looked_at:
                return self._store
            wanted: JsonObject | None = description.local_store if description is not None else {}
            if wanted != self._arguments:
                self._store = self._open(wanted)
                self._arguments = wanted
                self._learned = []
            if description is not None:
                self._learn(app_label_names(description.info))
            self._looked_at = description
            return self._store

    def _learn(self, names: list[str]) -> None:
        """Let the project's schema know the app's labels, in their order, before anybody submits one."""
        if names == self._learned or not isinstance(self._store, SchemaStore):
            return
        try:
            self._store.learn_labels(names)
        except LabelServerError as error:
            logger.warning("the schema could not take the app's labels", exc_info=error)
        self._learned = names

    @property
    def local(self) -> LocalDatastore | None:
        """The store in use if it is a local one; never opens another."""
        with self._lock:
            return self._store if isinstance(self._store, LocalDatastore) else None

    def _open(self, arguments: JsonObject | None) -> Datastore:
        if arguments is None:
            return DatastoreThroughLead(self._engine)
        return self._reopen(arguments) if arguments else self._default


@dataclass(frozen=True, slots=True)
class Server:
    """Everything a door needs. `close` gives the folders free."""

    settings: Settings
    roots: Roots
    engine: Engine
    model_store: ModelStore
    uploads: UploadStore
    stores: StoreInUse
    events: EventHub
    locks: tuple[OwnerLock, ...] = ()
    interactions: Interactions = field(init=False)
    triggers: TriggerBook = field(init=False)
    leases: LeaseBook = field(init=False)
    volumes: RasVolumes = field(init=False)

    def __post_init__(self) -> None:
        sessions = Interactions(
            self.engine, self.stores.current, self.roots, keep_days=float(self.settings.keep_sessions_days)
        )
        object.__setattr__(self, "interactions", sessions)  # frozen from here on
        object.__setattr__(self, "triggers", TriggerBook(self.roots.app / "triggers.json"))
        leases = LeaseBook(
            sessions,
            self.roots.state / "leases",
            slots=self.settings.nni_sessions,
            idle_s=float(self.settings.nni_idle_s),
            liveness_s=float(self.settings.nni_liveness_s),
        )
        object.__setattr__(self, "leases", leases)
        object.__setattr__(self, "volumes", RasVolumes(self.roots.state, self.settings.volume_cache_bytes))

    @property
    def datastore(self) -> Datastore:
        """The store in use now."""
        return self.stores.current()

    @property
    def spool(self) -> Path:
        """Where uploads arrive and workers leave results; each file has one owner, who deletes it."""
        return self.roots.state / "spool"

    def close(self) -> None:
        self.events.close()
        for lock in self.locks:
            lock.release()


def check_bind(settings: Settings) -> None:
    """Refuse to listen beyond this machine unless somebody said that this is meant.

    Raises:
        InvalidSetting: with advice.
    """
    if is_loopback(settings.host) or settings.insecure or settings.behind_proxy:
        return
    raise InvalidSetting(
        f"Listening on {settings.host} would let everybody on the network read and change the images and labels, "
        "because this server does not check who is calling. Keep --host 127.0.0.1 and use an SSH tunnel, put a proxy "
        "that checks callers in front and say --behind-proxy, or say --insecure on a network that you trust."
    )


def roots_of(settings: Settings) -> Roots:
    """The folders of `settings`, absolute. Raises `InvalidSetting` if they do not make sense."""
    if not settings.studies:
        raise InvalidSetting("No studies folder was given. Name one with --studies FOLDER.")
    if settings.studies.startswith(("http://", "https://")):
        raise InvalidSetting(f"Remote studies ({settings.studies}) are not there yet; name a folder with --studies.")
    state = settings.state_dir.expanduser().absolute()
    app = settings.app_dir.expanduser().absolute() if settings.has_app else state / "app"
    if settings.has_app and not (app / "main.py").is_file():
        raise InvalidSetting(
            f"The app folder {app} has no main.py. Name one with --app, or fetch one: labelserver apps."
        )
    return Roots(
        app=app,
        studies=Path(settings.studies).expanduser().absolute(),
        state=state,
    )


def build_server(settings: Settings) -> Server:
    """Wire a server.

    Raises:
        InvalidSetting: folders or bind address make no sense.
        FolderInUse: another server owns the app or the studies.
    """
    check_bind(settings)
    roots = roots_of(settings)
    roots.studies.mkdir(parents=True, exist_ok=True)
    for folder in (roots.app / "logs", roots.app / "model", roots.state / "spool"):
        folder.mkdir(parents=True, exist_ok=True)
    locks = (
        OwnerLock(roots.app, f"The app folder {roots.app}"),
        OwnerLock(roots.state, f"The studies {roots.studies}"),
    )
    try:
        for lock in locks:
            lock.acquire(take_over=settings.take_over)
        return _wire(settings, roots, locks)
    except BaseException:
        for lock in locks:
            lock.release()
        raise


def _wire(settings: Settings, roots: Roots, locks: tuple[OwnerLock, ...]) -> Server:
    events = EventHub(roots.app / "events.jsonl")
    model_store = LocalModelStore(roots.app, gate=Gate(settings.gate_rule, settings.gate_margin))
    engine = _engine(settings, roots, model_store, events)
    stores = StoreInUse(engine, _open_store(settings, roots, {}), lambda found: _open_store(settings, roots, found))
    uploads = UploadStore(
        settings.upload_dir.expanduser().absolute(), settings.session_expiry, settings.max_upload_bytes
    )
    return Server(settings, roots, engine, model_store, uploads, stores, events, locks)


def _engine(settings: Settings, roots: Roots, model_store: ModelStore, events: EventHub) -> Engine:
    if not settings.has_app:
        return NoAppEngine(_WITHOUT_APP)
    return LocalEngine(
        settings,
        roots,
        worker_command=[sys.executable, "-m", "labelserver.worker", "serve"],
        job_command=[sys.executable, "-m", "labelserver.worker", "run-job"],
        code_hash=code_hash(roots.app, settings.conf),
        on_version=_decider(model_store, events),
        warm_command=[sys.executable, "-m", "labelserver.worker", "warm-job"],
        on_job_event=JobEvents(events),
    )


#: Strategies that a server without an app offers: name, class in `tasks.strategies`, what it does.
_WITHOUT_APP = {
    "random": ("Random", "Random image, preferring those not handed out lately"),
    "first": ("First", "First unlabeled image by id"),
    "last": ("Last", "Last unlabeled image by id"),
}


def _open_store(settings: Settings, roots: Roots, arguments: JsonObject) -> LocalDatastore:
    """The local store as the settings say, or with the arguments that the app chose (`LocalDatastore.arguments`)."""
    if arguments:
        chosen: dict[str, Any] = dict(arguments)  # Any: they come from the app's own call
        return LocalDatastore(**chosen, look_soon=settings.datastore_auto_reload, **_split(settings))
    return LocalDatastore(
        roots.studies,
        extensions=tuple(settings.datastore_file_ext),
        auto_reload=settings.datastore_auto_reload,
        read_only=settings.datastore_read_only,
        state_dir=roots.state,
        index_dir=settings.index_dir,
        look_soon=settings.datastore_auto_reload,
        **_split(settings),
    )


def _split(settings: Settings) -> dict[str, Any]:
    """How a project that is new splits its images. `Any`: keyword arguments of two types."""
    return {"held_out_share": settings.held_out_share, "patient_pattern": settings.patient_pattern}


def _decider(model_store: ModelStore, events: EventHub) -> Callable[[str, int], None]:
    def decide(model: str, number: int) -> None:
        """Gate a candidate that a job has left. A problem with it must not reach the job's bookkeeping."""
        with suppress(LabelServerError):
            decision = model_store.decide(model, number)
            logger.info(
                "version decided",
                extra={"model": model, "version": number, "verdict": decision.verdict.value, "reason": decision.reason},
            )
            events.publish(*version_event(model, number, decision))

    return decide
