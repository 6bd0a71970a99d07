"""Loads the real app: the part of a worker through which torch comes in."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import cast

from labelserver.app.describing import describe
from labelserver.app.label_app import LabelApp
from labelserver.app.loading import load_app
from labelserver.contracts.model_store import writing_to
from labelserver.domain.app_description import AppDescription
from labelserver.domain.paths import Roots
from labelserver.model_store.local import LocalModelStore
from labelserver.settings import Settings
from labelserver.worker.hosted import HostedApp


class AppLoader:
    """See `hosted.Loader`."""

    def load(self, settings: Settings, roots: Roots) -> HostedApp:
        return load_app(roots.app, settings.studies, dict(settings.conf))

    def describe(self, app: HostedApp, settings: Settings, roots: Roots) -> AppDescription:
        return describe(cast(LabelApp, app), roots.app, dict(settings.conf))


def with_model_store(roots: Roots) -> AbstractContextManager[None]:
    """Let the training of a job add versions to the app's model store."""
    return writing_to(LocalModelStore(roots.app))
