"""While no package ``monailabel`` is installed, its import paths lead to `labelserver.compat`.

So an app written for MONAI Label loads without a change. Each module under ``monailabel`` *is* the module under
``labelserver.compat``, not a copy: classes are the same by either name.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

PEER = "monailabel"
HOME = "labelserver.compat"

#: modules of the peer that have no counterpart -> what to use instead
REPLACED = {
    "app": "the command 'labelserver start_server'",
    "main": "the command 'labelserver start_server'",
    "client": "labelserver.client.LabelServerClient",
    "tasks.train.handler": "BasicTrainTask.finalize, or the model store, which publishes",
    "interfaces.utils.wsi": "POST /infer/ with a region as a picture; whole slides are not there yet",
    "endpoints": "the HTTP routes themselves; they stand at the same paths",
    "utils.async_tasks.utils": "LabelApp.async_training, async_scoring and async_batch_infer",
    "datastore.utils.convert": "labelserver.imaging.dicom_series and labelserver.imaging.volumes",
    "datastore.utils.dicom": "labelserver.imaging.dicom_series",
}


class _Alias(Loader):
    """Puts the counterpart into `sys.modules` in place of the module that the import system made."""

    def __init__(self, target: str) -> None:
        self._target = target

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(self._target)


class _PeerFinder(MetaPathFinder):
    """First in line, so that a submodule is never found a second time through the package's folder."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        name, _, rest = fullname.partition(".")
        if name != PEER or _really_installed():
            return None
        counterpart = f"{HOME}.{rest}" if rest else HOME
        if not _exists(counterpart):
            instead = next((text for key, text in REPLACED.items() if rest == key or rest.startswith(f"{key}.")), "")
            advice = f" Use {instead}." if instead else " docs/compatibility.md lists what there is."
            raise ModuleNotFoundError(f"There is no counterpart to {fullname} here.{advice}", name=fullname)
        return ModuleSpec(fullname, _Alias(counterpart), is_package=True)


def answer_peer_imports() -> None:
    """Install the finder, once for the process: modules may be imported long after the app was loaded."""
    if not any(isinstance(finder, _PeerFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _PeerFinder())


def _really_installed() -> bool:
    loaded = sys.modules.get(PEER)
    if loaded is not None:
        return loaded.__name__ != HOME
    return PathFinder.find_spec(PEER) is not None


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
