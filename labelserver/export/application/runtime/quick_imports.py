"""Import of MONAI in tenths of a second instead of seconds.

``import monai`` runs every module it has, and with them ignite, matplotlib, half of scipy and of scikit-image. Here
each package of MONAI is entered without running its ``__init__``: the file is read for what it imports from where, and
a name is fetched when it is first asked for. Libraries that MONAI only may use are imported when first touched; those
that answer nothing here (training, plots, progress bars) look absent.

The code that then runs is the same. A name that cannot be found this way is found by running the real ``__init__``.
`installed` is the one switch: ``LABELSERVER_APP_PLAIN_IMPORTS=1`` leaves everything as Python does it.
"""

from __future__ import annotations

import ast
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import Any

PLAIN = "LABELSERVER_APP_PLAIN_IMPORTS"

#: MONAI asks for these and goes on without; nothing that infers uses them.
_ABSENT = ("ignite", "matplotlib", "tqdm")

#: Imported when first touched. MONAI imports them at its own import, for single functions.
_LATE = frozenset(
    {
        "nibabel",
        "nrrd",
        "PIL.Image",
        "requests",
        "scipy.interpolate",
        "scipy.ndimage",
        "scipy.spatial",
        "scipy.special",
        "scipy.stats",
        "skimage.exposure",
        "skimage.filters",
        "skimage.measure",
        "skimage.morphology",
        "skimage.segmentation",
        "skimage.util",
        "yaml",
    }
)

#: Modules of MONAI, and what they want for one function each, that is not used here and then says what it misses: a
#: third of scipy for ultrasound, nibabel's inside for files read into a GPU, a reader of whole slides.
_WITHOUT = {
    "monai.data.ultrasound_confidence_map": ("scipy.sparse", "scipy.sparse.linalg", "scipy.signal"),
    "monai.data.image_reader": ("nibabel.nifti1",),
    "monai.data.wsi_reader": ("tifffile",),
}

#: where a package entered quickly keeps the names that it offers
_NAMES = "_quick_names"

_lock = RLock()


def install() -> bool:
    """Put the finders in front. Returns whether imports are now quick; has no effect once MONAI is loaded."""
    if os.environ.get(PLAIN) or "monai" in sys.modules:
        return installed()
    for name in _ABSENT:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # None: "this import fails" (importlib's docs)
    sys.meta_path.insert(0, _Finder())
    return True


def installed() -> bool:
    return any(isinstance(finder, _Finder) for finder in sys.meta_path)


def offers(package: ModuleType, name: str) -> bool:
    """Whether a package of MONAI has a name, without importing anything for it."""
    return name in package.__dict__ or name in package.__dict__.get(_NAMES, ())


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package = fullname == "monai" or fullname.startswith("monai.")
        if not package and fullname not in _LATE:
            return _found_by_its_parent(fullname)
        spec = PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return None
        if fullname in _LATE:
            spec.loader = _LateLoader(spec.loader)
        elif fullname in _WITHOUT:
            spec.loader = _LoaderWithout(spec.loader, _WITHOUT[fullname])
        elif spec.submodule_search_locations is not None and spec.origin is not None:
            spec.loader = _PackageLoader(spec.loader, Path(spec.origin))
        return spec


def _found_by_its_parent(name: str) -> ModuleSpec | None:
    """A module of a late package: the package runs first, and may have imported it on its way."""
    parent = sys.modules.get(name.rpartition(".")[0])
    if not isinstance(parent, _Late) or not parent.run() or name not in sys.modules:
        return None
    return ModuleSpec(name, _Existing(sys.modules[name]))


class _Existing(Loader):
    """Gives a module that is there already."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


class _Around(Loader):
    """A loader that changes how another one executes."""

    def __init__(self, real: Loader) -> None:
        self.real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.real.create_module(spec)

    def __getattr__(self, name: str) -> Any:  # what inspection asks of a loader, such as get_source
        return getattr(self.real, name)


class _PackageLoader(_Around):
    """A package whose names are fetched from the modules that its ``__init__`` would have imported them from."""

    def __init__(self, real: Loader, init: Path) -> None:
        super().__init__(real)
        self.init = init

    def exec_module(self, module: ModuleType) -> None:
        homes, everything = _imports_of(self.init)
        package, real = module.__name__, self.real

        def fetch(name: str) -> Any:
            with _lock:
                value = _from_home(package, name, homes, everything)
                if value is _NOWHERE:
                    if name.startswith("__"):
                        raise AttributeError(f"module {package!r} has no attribute {name!r}")
                    del module.__dict__["__getattr__"]
                    real.exec_module(module)  # a name that __init__ itself makes
                    value = getattr(module, name)
                setattr(module, name, value)
                return value

        module.__dict__["__getattr__"] = fetch
        module.__dict__[_NAMES] = frozenset(homes)


_NOWHERE = object()


def _imports_of(init: Path) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """Of an ``__init__.py``: name -> (module, its name there; "" for the module), and modules imported with ``*``."""
    homes: dict[str, tuple[str, str]] = {}
    everything: list[str] = []
    for node in ast.walk(ast.parse(init.read_bytes())):
        if not isinstance(node, ast.ImportFrom) or node.level != 1:
            continue
        for alias in node.names:
            shown = alias.asname or alias.name
            if node.module is None:
                homes[shown] = (alias.name, "")
            elif alias.name == "*":
                everything.append(node.module)
            else:
                homes[shown] = (node.module, alias.name)
    return homes, everything


def _from_home(package: str, name: str, homes: dict[str, tuple[str, str]], everything: list[str]) -> Any:
    if name == "__version__" and package == "monai":
        return importlib.import_module("monai._version").get_versions()["version"]
    if name in homes:
        module, there = homes[name]
        found = importlib.import_module(f"{package}.{module}")
        return getattr(found, there) if there else found
    if name.startswith("__"):
        return _NOWHERE
    for module in everything:
        found = importlib.import_module(f"{package}.{module}")
        if hasattr(found, name):
            return getattr(found, name)
    try:
        return importlib.import_module(f"{package}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{package}.{name}":
            raise
        return _NOWHERE


class _LateLoader(_Around):
    def exec_module(self, module: ModuleType) -> None:
        module.__class__ = _Late
        module.__dict__["_late_loader"] = self.real


class _Late(ModuleType):
    """A module that runs when an attribute is asked for that every module has not."""

    def run(self) -> bool:
        """Whether it ran now; False: it had run already, or is about to."""
        with _lock:
            real = self.__dict__.pop("_late_loader", None)
            if real is None:
                return False
            self.__class__ = ModuleType  # type: ignore[assignment]
            real.exec_module(self)
            return True

    def __getattr__(self, name: str) -> Any:
        if self.run() or name in self.__dict__:
            return getattr(self, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


class _LoaderWithout(_Around):
    """Executes while some libraries look absent."""

    def __init__(self, real: Loader, absent: tuple[str, ...]) -> None:
        super().__init__(real)
        self.absent = absent

    def exec_module(self, module: ModuleType) -> None:
        before = {name: sys.modules[name] for name in self.absent if name in sys.modules}
        sys.modules.update(dict.fromkeys(self.absent))  # type: ignore[arg-type]
        try:
            self.real.exec_module(module)
        finally:
            for name in self.absent:
                del sys.modules[name]
            sys.modules.update(before)
