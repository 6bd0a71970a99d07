"""Code that an export brings along: classes of the app or of this package, cut out with all they need.

The result is a package ``scripts`` that imports torch, MONAI, numpy and what else is installed, but nothing of the app
and nothing of this package. Of each module only the wanted definitions and those they use are taken, word for word;
imports of other carried modules are rewritten. What cannot be cut out is refused with the reason.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from labelserver.export.configuring import CannotWrite, short_name
from labelserver.export.contents import SCRIPTS

_OWN = "labelserver"
_MAIN = "main"
_SHORTER = (f"{_OWN}.tasks.transforms.", f"{_OWN}.tasks.", f"{_OWN}.export.", f"{_OWN}.")
#: modules that an export may need; closures beyond this are tasks, not transforms
MAX_MODULES = 30
#: distributions that every export needs anyway
USUAL = frozenset({"torch", "monai", "numpy", "scipy", "scikit-image", "nibabel", "pillow", "einops", "pytorch-ignite"})


@dataclass(slots=True)
class _Module:
    """What is taken of a module."""

    name: str
    tree: ast.Module
    lines: list[str]
    wanted: set[str] = field(default_factory=set)

    def definitions(self) -> dict[str, ast.stmt]:
        """Top-level name -> the statement that binds it; the last one counts, as when the module runs."""
        found: dict[str, ast.stmt] = {}
        for statement in self.tree.body:
            for name in _bound(statement):
                found[name] = statement
        return found


class CarriedCode:
    """Collects code and writes the package. `app`: the app's folder, whose modules are carried as well."""

    def __init__(self, app: Path | None) -> None:
        self._app = app
        self._modules: dict[str, _Module] = {}
        self.requirements: set[str] = set()  #: distributions beside the usual that the export needs

    def name_of(self, code: Any) -> str:
        """See `configuring.CodeNames`."""
        module = str(getattr(code, "__module__", None) or "builtins")
        name = getattr(code, "__qualname__", getattr(code, "__name__", ""))
        if not self._is_carried(module):
            self._require(module)
            return short_name(code)
        if "." in name:
            raise CannotWrite(f"{name} of {module} is defined inside something else; define it at the top of a module.")
        self._take(module, name)
        return f"{SCRIPTS}.{flat(module)}.{name}"

    def __bool__(self) -> bool:
        return bool(self._modules)

    def write(self, folder: Path) -> None:
        """Write the package into `folder`, which does not exist."""
        folder.mkdir()
        first = '"""Code that the configuration names, cut out of the server and app that this export comes from."""\n'
        (folder / "__init__.py").write_text(first, encoding="utf-8")
        for module in self._modules.values():
            (folder / f"{flat(module.name)}.py").write_text(self._text(module), encoding="utf-8")

    # What is taken.

    def _is_carried(self, module: str) -> bool:
        if module.partition(".")[0] == _OWN or (module == _MAIN and self._main() is not None):
            return True
        file = getattr(_loaded(module), "__file__", None)
        return self._app is not None and file is not None and Path(file).resolve().is_relative_to(self._app.resolve())

    def _main(self) -> Path | None:
        """The app's ``main.py``, which runs as a module that nobody can import afterwards."""
        path = self._app / "main.py" if self._app is not None else None
        return path if path is not None and path.is_file() else None

    def _take(self, module_name: str, name: str) -> None:
        module = self._modules.get(module_name)
        if module is None:
            if len(self._modules) >= MAX_MODULES:
                raise CannotWrite(
                    f"{name} of {module_name} needs more than {MAX_MODULES} modules of the app or the server. Put what "
                    "the network's transforms need into a module of its own that imports little."
                )
            main = self._main() if module_name == _MAIN else None
            module = self._modules[module_name] = _parsed(module_name, main)
        if name in module.wanted:
            return
        module.wanted.add(name)
        statement = module.definitions().get(name)
        if statement is None:
            raise CannotWrite(f"{module_name} has no {name} at its top level, so it cannot be shipped with the export.")
        if isinstance(statement, ast.Import | ast.ImportFrom):
            self._follow(module, statement, name)
            return
        for used in _names_in(statement):
            if used in module.definitions() and used != name:
                self._take(module_name, used)

    def _follow(self, module: _Module, statement: ast.Import | ast.ImportFrom, bound: str) -> None:
        for origin, name, alias in _imported(module.name, statement):
            if (alias or name or origin.partition(".")[0]) != bound:
                continue
            if not self._is_carried(origin):
                self._require(origin)
            elif name is None:
                raise CannotWrite(
                    f"{module.name} says 'import {origin}'. Say 'from {origin} import ...', so that it can be shipped."
                )
            else:
                home, real = _home(origin, name)
                self._take(home, real)

    def _require(self, module: str) -> None:
        """Note the distribution of an installed module."""
        top = module.partition(".")[0]
        if top in sys.stdlib_module_names or top in ("builtins", "__future__"):
            return
        found = _distributions().get(top)
        if not found:
            raise CannotWrite(f"The module {top} belongs to no installed package and not to the app; it stays behind.")
        if found[0].lower() not in USUAL:
            self.requirements.add(found[0])

    # How it is written.

    def _text(self, module: _Module) -> str:
        parts = [f'"""Taken from {module.name}."""', "", "from __future__ import annotations", ""]
        definitions = module.definitions()
        taken = {id(definitions[name]) for name in module.wanted if name in definitions}
        for statement in module.tree.body:
            if id(statement) not in taken:
                continue
            if isinstance(statement, ast.Import | ast.ImportFrom):
                parts += list(self._import_lines(module, statement))
            else:
                parts += ["", _source(module, statement)]
        return "\n".join(parts) + "\n"

    def _import_lines(self, module: _Module, statement: ast.Import | ast.ImportFrom) -> Iterator[str]:
        for origin, name, alias in _imported(module.name, statement):
            if (alias or name or origin.partition(".")[0]) not in module.wanted:
                continue
            if name is None:
                yield f"import {origin}" + (f" as {alias}" if alias else "")
                continue
            if self._is_carried(origin):
                home, real = _home(origin, name)
                source, kept = f"{SCRIPTS}.{flat(home)}", alias or (name if real != name else None)
                yield f"from {source} import {real}" + (f" as {kept}" if kept else "")
            else:
                yield f"from {origin} import {name}" + (f" as {alias}" if alias else "")


@cache
def _distributions() -> dict[str, list[str]]:
    """Top-level module -> the installed distributions that bring it."""
    return dict(importlib.metadata.packages_distributions())


def flat(module: str) -> str:
    """The name of a carried module inside ``scripts``."""
    for start in _SHORTER:
        if module.startswith(start):
            return module.removeprefix(start).replace(".", "_")
    return module.replace(".", "_")


def _loaded(module: str) -> ModuleType | None:
    if module in sys.modules:
        return sys.modules[module]
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def _parsed(name: str, file: Path | None) -> _Module:
    module = _loaded(name) if file is None else None
    try:
        text = inspect.getsource(module) if module is not None else ""
        text = file.read_text(encoding="utf-8") if file is not None else text
    except (OSError, TypeError):
        text = ""
    if not text:
        raise CannotWrite(f"The source of {name} was not found, so what is in it cannot be shipped with the export.")
    return _Module(name, ast.parse(text), text.splitlines())


def _home(origin: str, name: str) -> tuple[str, str]:
    """The module that defines `name`, which `origin` may only pass on."""
    module = _loaded(origin)
    value = getattr(module, name, None)
    home = getattr(value, "__module__", None)
    if isinstance(value, ModuleType):
        raise CannotWrite(f"'from {origin} import {name}' takes a whole module; import the names that are needed.")
    defined = getattr(value, "__qualname__", None)
    if isinstance(home, str) and home != origin and defined and "." not in defined and _loaded(home) is not None:
        return home, defined
    return origin, name


def _bound(statement: ast.stmt) -> Iterator[str]:
    """The names that a top-level statement binds."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        for alias in statement.names:
            yield alias.asname or alias.name.partition(".")[0]
    elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))
    elif isinstance(statement, ast.If | ast.Try):
        for part in ast.iter_child_nodes(statement):
            if isinstance(part, ast.stmt):
                yield from _bound(part)


def _names_in(statement: ast.stmt) -> set[str]:
    """Names that a statement uses when it runs: annotations are never evaluated (`from __future__`)."""
    annotations: set[int] = set()
    for node in ast.walk(statement):
        for part in ("annotation", "returns"):
            note = getattr(node, part, None)
            if isinstance(note, ast.AST) and not _is_dataclass_field(statement, node):
                annotations |= {id(inner) for inner in ast.walk(note)}
    return {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and id(n) not in annotations}


def _is_dataclass_field(statement: ast.stmt, node: ast.AST) -> bool:
    """Never evaluated either, but a ClassVar must be recognised by its name."""
    return isinstance(statement, ast.ClassDef) and isinstance(node, ast.AnnAssign) and "ClassVar" in ast.dump(node)


def _imported(module: str, statement: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str | None, str | None]]:
    """(module, name or None, alias or None) for each name of an import, relative ones made absolute."""
    if isinstance(statement, ast.Import):
        yield from ((alias.name, None, alias.asname) for alias in statement.names)
        return
    origin = statement.module or ""
    if statement.level:
        package = module.split(".")[: -statement.level]
        origin = ".".join([*package, *([origin] if origin else [])])
    yield from ((origin, alias.name, alias.asname) for alias in statement.names)


def _source(module: _Module, statement: ast.stmt) -> str:
    decorators = getattr(statement, "decorator_list", [])
    first = min([statement.lineno, *(d.lineno for d in decorators)])
    return "\n".join(module.lines[first - 1 : statement.end_lineno])
