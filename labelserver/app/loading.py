"""Execute an app folder's ``main.py`` and build its app.

``main.py`` runs as a module ``main`` that is not left in `sys.modules`; modules ``lib`` and ``lib.*`` of an app loaded
earlier are dropped first, so that two apps that both ship a ``lib`` can be loaded one after the other. The app folder
is first on `sys.path` meanwhile and last afterwards, for modules that are imported late.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from labelserver.app.code_hash import code_hash
from labelserver.app.label_app import LabelApp
from labelserver.app.peer_imports import answer_peer_imports
from labelserver.domain.errors import AppLoadFailed, LabelServerError

__all__ = ["code_hash", "load_app"]

logger = logging.getLogger(__name__)

#: folders that apps expect to exist before their constructor runs
FOLDERS = ("model", "lib", "logs", "bin")
_LIBRARY = "lib"
_MAIN = "main"


def load_app(app_dir: Path, studies: str, conf: dict[str, str]) -> LabelApp:
    """Load the app in `app_dir` and build it.

    Args:
        app_dir: folder with a ``main.py`` that defines a subclass of `LabelApp`.
        studies: folder with the images.
        conf: what ``--conf`` said.

    Raises:
        AppLoadFailed: no main.py, no app class in it, or its code raised; the message names file and line.
    """
    app_dir = Path(app_dir).absolute()
    main = app_dir / "main.py"
    if not main.is_file():
        raise AppLoadFailed(
            f"The app folder {app_dir.name} has no main.py. Choose another with --app.", app=app_dir.name
        )
    for folder in FOLDERS:
        (app_dir / folder).mkdir(parents=True, exist_ok=True)
    _tell_children(app_dir)
    answer_peer_imports()
    with _importing_from(app_dir):
        try:
            module = _executed(main)
            cls = _app_class(module, app_dir)
            app = cls(app_dir=str(app_dir), studies=str(studies), conf=dict(conf))
        except LabelServerError:
            raise
        except (Exception, SystemExit) as error:  # the app's own code
            raise AppLoadFailed(_sentence(error, app_dir), app=app_dir.name) from error
    logger.info("app loaded", extra={"app": app_dir.name, "app_class": cls.__name__})
    return app


def _tell_children(app_dir: Path) -> None:
    """Processes that the app starts find its modules and its programs."""
    for variable, folder in (("PYTHONPATH", app_dir), ("PATH", app_dir / "bin")):
        known = [part for part in os.environ.get(variable, "").split(os.pathsep) if part]
        if str(folder) not in known:
            os.environ[variable] = os.pathsep.join([*known, str(folder)])


@contextmanager
def _importing_from(app_dir: Path) -> Iterator[None]:
    for name in [n for n in sys.modules if n == _LIBRARY or n.startswith(f"{_LIBRARY}.")]:
        del sys.modules[name]
    importlib.invalidate_caches()
    folder, earlier = str(app_dir), sys.modules.get(_MAIN)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.modules.pop(_MAIN, None)
        if earlier is not None:
            sys.modules[_MAIN] = earlier
        sys.path[:] = [*(part for part in sys.path if part != folder), folder]


def _executed(main: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(_MAIN, main)
    if spec is None or spec.loader is None:
        raise AppLoadFailed(f"{main.name} cannot be loaded as Python code.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MAIN] = module  # dataclasses and the like look their module up while it runs
    spec.loader.exec_module(module)
    return module


def _app_class(module: ModuleType, app_dir: Path) -> type[LabelApp]:
    """The first class by name that main.py itself defines as a `LabelApp`."""
    found = [
        value
        for _, value in sorted(vars(module).items())
        if isinstance(value, type) and issubclass(value, LabelApp) and value.__module__ == module.__name__
    ]
    if not found:
        raise AppLoadFailed(
            f"main.py of {app_dir.name} defines no app. Write one: class MyApp(LabelApp), with LabelApp imported from "
            "labelserver.",
            app=app_dir.name,
        )
    return found[0]


def _sentence(error: BaseException, app_dir: Path) -> str:
    """Where in the app it went wrong, and what Python says."""
    where = ""
    if isinstance(error, SyntaxError) and error.filename:
        where = f" at {_short(error.filename, app_dir)}, line {error.lineno}"
    else:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if Path(frame.filename).is_relative_to(app_dir)]
        if own:
            where = f" at {_short(own[-1].filename, app_dir)}, line {own[-1].lineno}"
    text = str(error.msg if isinstance(error, SyntaxError) else error).strip()
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"The app {app_dir.name} failed to load{where}: {said}"


def _short(filename: str, app_dir: Path) -> str:
    path = Path(filename)
    return path.relative_to(app_dir).as_posix() if path.is_relative_to(app_dir) else path.name
