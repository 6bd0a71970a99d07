"""Finding an app's classes."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def get_class_names(package: ModuleType, subclass: str | None = None) -> list[str]:
    """Dotted paths of the concrete classes in the modules of a package whose ancestry names `subclass`."""
    names = []
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda found: found.name):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for name, cls in sorted(inspect.getmembers(module, inspect.isclass)):
            own = cls.__module__ == module.__name__ and not inspect.isabstract(cls)
            if own and (subclass is None or subclass in {base.__name__ for base in cls.__mro__[1:]}):
                names.append(f"{module.__name__}.{name}")
    return names


def module_from_file(module_name: str, file: str) -> ModuleType:
    """Execute a file as a module that is not kept."""
    spec = importlib.util.spec_from_file_location(module_name, Path(file))
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not Python code")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def unload_module(name: str) -> None:
    """Forget a module and its submodules."""
    for known in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
        del sys.modules[known]


def init_class(path: str, *args: Any, **kwargs: Any) -> Any:
    """Build the class at a dotted path."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)(*args, **kwargs)


def init_class_from_exp(expression: str) -> Any:
    """Build ``package.module.Class`` or ``package.module.Class()``, without arguments; nothing is evaluated."""
    return init_class(expression.strip().removesuffix("()"))
