"""What a worker or a job needs of the app it hosts, and of whoever loads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from labelserver.contracts.datastore import Datastore
from labelserver.domain.app_description import AppDescription
from labelserver.domain.jobs import JobSpec
from labelserver.domain.json_types import JsonObject
from labelserver.domain.paths import Roots
from labelserver.settings import Settings
from labelserver.worker.sessions import AppTasks

# The app's methods take and return what their author chose: dicts with values of any type, hence Any.


class ImageChooser(Protocol):
    """What `init_batch_infer` returns, as far as a batch of the server's uses it."""

    def get_images(self, request: dict[str, Any], datastore: Datastore) -> list[str]: ...


class HostedApp(Protocol):
    """The methods of `LabelApp` that are called from outside. Each may raise anything."""

    @property
    def _batch_infer(self) -> ImageChooser: ...

    def infer(self, request: dict[str, Any]) -> Mapping[str, Any] | None: ...

    def train(self, request: dict[str, Any]) -> Any: ...

    def scoring(self, request: dict[str, Any]) -> Any: ...

    def next_sample(self, request: dict[str, Any]) -> Any: ...

    def on_init_complete(self) -> Any: ...

    def on_save_label(self, image_id: str, label_id: str) -> Any: ...

    def model_file(self, model: str, validate: bool = True) -> Any: ...

    def model_info(self, model: str) -> Any: ...

    def datastore(self) -> Datastore: ...

    def server_mode(self, mode: bool) -> Any: ...


class Loader(Protocol):
    """Loads the app; the one part of a worker that knows how."""

    def load(self, settings: Settings, roots: Roots) -> HostedApp:
        """Raises `AppLoadFailed`, or anything that the app's code raises."""

    def describe(self, app: HostedApp, settings: Settings, roots: Roots) -> AppDescription: ...

    def export(self, load: Callable[[], HostedApp], spec: JobSpec, folder: Path) -> JsonObject:
        """Run an export job, which loads the app itself; see `labelserver.worker.exporting`."""

    def prompted(self, app: HostedApp) -> AppTasks:
        """The app's tasks for interactive sessions."""
