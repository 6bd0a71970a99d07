"""What the lead worker tells the server about the app it loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labelserver import settings as settings_module
from labelserver.app.label_app import LabelApp
from labelserver.app.loading import code_hash
from labelserver.app.self_description import app_info
from labelserver.datastore.local import LocalDatastore
from labelserver.datastore.plain_json import plain_object
from labelserver.domain.app_description import AppDescription
from labelserver.domain.json_types import JsonObject
from labelserver.tasks.planned import READY_MADE

#: Methods that the server would otherwise do without asking the app.
HOOKS = ("infer", "batch_infer", "train", "scoring", "next_sample", "on_init_complete", "on_save_label")


def describe(app: LabelApp, app_dir: Path, conf: Mapping[str, str]) -> AppDescription:
    """Describe `app` as loaded from `app_dir` with `conf`."""
    info = {
        **app_info(app.name, app.description, app.version, app.labels, app.tasks()),
        **_added_info(app),
    }
    return AppDescription(
        info=plain_object(info),
        code_hash=code_hash(app_dir, dict(conf)),
        overridden_hooks=frozenset(hook for hook in HOOKS if _is_overridden(app, hook)),
        ready_made_strategies=_ready_made(app),
        local_store=_local_store(app),
        trainer_models=app.lineages(),
    )


def _is_overridden(app: LabelApp, hook: str) -> bool:
    return getattr(type(app), hook) is not getattr(LabelApp, hook) or hook in vars(app)


def _added_info(app: LabelApp) -> dict[str, Any]:
    """Keys that an app's own ``info()`` adds or changes; what is live stays out."""
    if not _is_overridden(app, "info"):
        return {}
    return {key: value for key, value in app.info().items() if key not in ("datastore", "train_stats")}


def _ready_made(app: LabelApp) -> dict[str, str]:
    """Strategies that the server can run itself: ours, with their default arguments."""
    found = {}
    for name, strategy in app.tasks()["strategies"].items():
        cls = READY_MADE.get(type(strategy).__name__)
        if cls is type(strategy) and _state(strategy) == _state(cls()):
            found[name] = cls.__name__
    return found


def _state(strategy: object) -> dict[str, Any]:
    return {key: value for key, value in vars(strategy).items() if key != "_description"}


def _local_store(app: LabelApp) -> JsonObject | None:
    """``{}`` for the store that the server opens anyway, its arguments if the app chose others, None for any other."""
    store = app.datastore()
    if type(store) is not LocalDatastore:
        return None
    settings = settings_module.current()
    usual = {
        "datastore_path": str(Path(app.studies).absolute()),
        "images_dir": ".",
        "labels_dir": "labels",
        "datastore_config": "datastore_v2.json",
        "extensions": list(settings.datastore_file_ext),
        "read_only": settings.datastore_read_only,
    }
    chosen = {key: value for key, value in store.arguments.items() if key != "auto_reload"}
    return {} if chosen == usual else {**store.arguments}
