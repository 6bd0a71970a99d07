"""Loads the real app: the part of a worker through which torch comes in."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import cast

from labelserver.app.describing import describe
from labelserver.app.label_app import LabelApp
from labelserver.app.loading import load_app
from labelserver.contracts.model_store import writing_to
from labelserver.domain.app_description import AppDescription
from labelserver.domain.errors import TaskNotFound
from labelserver.domain.jobs import JobSpec
from labelserver.domain.json_types import JsonObject
from labelserver.domain.paths import Roots
from labelserver.model_store.local import LocalModelStore
from labelserver.settings import Settings
from labelserver.tasks.image_places import cache_home_of
from labelserver.tasks.prompted_infer import as_prompted
from labelserver.tasks.prompting import PromptTask
from labelserver.worker.hosted import HostedApp
from labelserver.worker.sessions import AppTasks


class AppLoader:
    """See `hosted.Loader`."""

    def load(self, settings: Settings, roots: Roots) -> HostedApp:
        return load_app(roots.app, settings.studies, dict(settings.conf))

    def describe(self, app: HostedApp, settings: Settings, roots: Roots) -> AppDescription:
        return describe(cast(LabelApp, app), roots.app, dict(settings.conf))

    def export(self, load: Callable[[], HostedApp], spec: JobSpec, folder: Path) -> JsonObject:
        exporting = importlib.import_module("labelserver.worker.exporting")  # no other job needs what it loads
        found: JsonObject = exporting.export_job(load, spec, folder)
        return found

    def prompted(self, app: HostedApp) -> AppTasks:
        return prompted_tasks(cast(LabelApp, app))


def prompted_tasks(app: LabelApp) -> AppTasks:
    """The tasks of `app` that take prompts, for interactive sessions."""

    def task(name: str) -> PromptTask:
        found = app.tasks()["models"].get(name)
        prompted = as_prompted(found) if found is not None else None
        if prompted is None:
            raise TaskNotFound(f"This app has no model {name[:100]!r} that takes prompts.", name=name[:100])
        return prompted

    return AppTasks(
        task,
        lambda image_id: app.datastore().get_image_uri(image_id),
        app.model_version,
        lambda: cache_home_of(app.datastore()),
    )


def with_model_store(roots: Roots) -> AbstractContextManager[None]:
    """Let the training of a job add versions to the app's model store."""
    return writing_to(LocalModelStore(roots.app))
