"""Whether a bundle may run here: a person has seen what it executes, and no file of its code has changed since.

A bundle is code: its configuration holds expressions, names classes to build and brings a package ``scripts``. So it is
imported once, on the command line; the import shows `what_runs` and keeps a SHA-256 of each file in
``trusted_bundles.json`` *beside* the bundle's folder, where nothing that the bundle brings can stand. `ensure_trusted`
compares before anything of the bundle is evaluated. What a training writes into a bundle (weights under ``models/``,
which are loaded as data, and folders of results) is not part of its code and may change.
"""

from __future__ import annotations

import builtins
import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import yaml

from labelserver.domain.errors import AppLoadFailed, UnreadableFile
from labelserver.domain.json_types import JsonObject
from labelserver.storage import atomic
from labelserver.storage.checksums import sha256_of

#: beside the bundles of an app, usually in its ``model`` folder
PINS_FILE = "trusted_bundles.json"

_CONFIG_SUFFIXES = (".json", ".yaml", ".yml")
#: weights that are read with ``weights_only``, so that they are data
_WEIGHTS = (".pt", ".pth", ".safetensors")
#: folders into which a bundle's own training writes results
_RESULTS = ("eval", "logs", "mlruns", "__pycache__")
#: new files of these kinds could be executed, so they may not appear after the import
_EXECUTED = (".py", ".pyc", ".so", ".ts", ".conf", *_CONFIG_SUFFIXES)
#: modules whose classes and functions a configuration may name without being listed ...
_KNOWN_MODULES = ("monai", "torch")
#: ... except for those that fetch or load code
_LOADS_CODE = ("torch.hub", "torch.load", "torch.jit.load", "torch.package", "torch.ops", "torch.utils.cpp_extension")

_writing = threading.Lock()


@dataclass(frozen=True, slots=True)
class Runs:
    """One thing that a bundle would execute."""

    file: str  #: below the bundle
    where: str  #: place in the configuration, ``train#trainer#max_epochs``; "" for a whole file
    what: str  #: an expression, a class, a referenced file, or "code"


def what_runs(bundle: Path) -> list[Runs]:
    """Everything in a bundle that is code, in the order of its files.

    Listed are each expression (``$...``), each ``_target_`` outside torch and MONAI, each reference (``%...``) to
    another file, each Python file, and each archive of TorchScript.

    Raises:
        UnreadableFile: a configuration that is not JSON or YAML.
    """
    found: list[Runs] = []
    for path in _files(bundle):
        name = path.relative_to(bundle).as_posix()
        if path.suffix in _CONFIG_SUFFIXES:
            found += [Runs(name, where, what) for where, what in _code_in(_parsed(path), "")]
        elif path.suffix in (".py", ".so"):
            found.append(Runs(name, "", "code"))
        elif path.suffix == ".ts":
            found.append(Runs(name, "", "a TorchScript program"))
    return found


def trust(bundle: Path) -> None:
    """Keep the checksums of the bundle as it is now: a person has agreed to run it.

    Raises:
        UnreadableFile: the bundle holds a link, whose target could change unseen.
    """
    files: JsonObject = {path.relative_to(bundle).as_posix(): sha256_of(path) for path in _files(bundle)}
    with _writing:
        pins = bundle.parent / PINS_FILE
        known = _pins(pins)
        known[bundle.name] = {"imported_ts": round(time.time(), 3), "files": files}
        atomic.write_json(pins, known)


def ensure_trusted(bundle: Path, *, programs: bool = True) -> None:
    """Let a bundle pass that was imported and is unchanged.

    Args:
        bundle: its folder.
        programs: also compare archives of TorchScript, which may be large.

    Raises:
        AppLoadFailed: it was never imported, or a file of its code changed, appeared or vanished.
    """
    entry = _pins(bundle.parent / PINS_FILE).get(bundle.name)
    pinned = entry.get("files") if isinstance(entry, dict) else None
    advice = f"Look at what it runs and agree to it: labelserver import {bundle.name} --app APP"
    if not isinstance(pinned, dict):
        raise AppLoadFailed(
            f"The bundle {bundle.name} has not been imported into this app, and a bundle is code. {advice}"
        )
    present = {path.relative_to(bundle).as_posix(): path for path in _files(bundle)}
    for name, path in present.items():
        if not programs and path.suffix == ".ts":
            continue
        if name not in pinned and path.suffix in _EXECUTED:
            raise AppLoadFailed(f"The file {name} of the bundle {bundle.name} is new since its import. {advice}")
        if name in pinned and sha256_of(path) != pinned[name]:
            raise AppLoadFailed(f"The file {name} of the bundle {bundle.name} has changed since its import. {advice}")
    gone = sorted(set(pinned) - set(present))
    if gone:
        raise AppLoadFailed(f"The file {gone[0]} of the bundle {bundle.name} is missing. Import the bundle again.")


def _files(bundle: Path) -> list[Path]:
    """The files whose content matters, sorted. Raises `UnreadableFile` for a link."""
    found = []
    for path in sorted(bundle.rglob("*")):
        name = PurePosixPath(path.relative_to(bundle).as_posix())
        if path.is_symlink():
            raise UnreadableFile(f"The bundle {bundle.name} holds a link, {name}; a bundle must hold its files itself.")
        weights = name.parts[0] == "models" and path.suffix in _WEIGHTS
        if path.is_file() and not weights and not set(name.parts[:-1]) & set(_RESULTS):
            found.append(path)
    return found


def _parsed(path: Path) -> object:
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise UnreadableFile(f"The file {path.name} of the bundle is no JSON or YAML: {error}") from error


def _code_in(value: object, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _code_in(part, f"{where}#{key}" if where else str(key))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _code_in(part, f"{where}#{number}")
    elif isinstance(value, str):
        expression = value.startswith("$")
        other_file = value.startswith("%") and any(suffix in value for suffix in _CONFIG_SUFFIXES)
        if expression or other_file or (where.endswith("_target_") and _is_foreign(value)):
            yield where, value


def _is_foreign(target: str) -> bool:
    """Whether the name may lead out of torch and MONAI.

    A bare name is one of MONAI's unless Python has it built in; a dotted one belongs to its first module, unless it
    goes on through a module of the standard library that torch or MONAI import (``torch.os.system``).
    """
    first, *rest = target.split(".")
    if not rest:
        return hasattr(builtins, first)
    through = any(part in sys.stdlib_module_names or part == "builtins" for part in rest)
    return first not in _KNOWN_MODULES or through or target.startswith(_LOADS_CODE)


def _pins(path: Path) -> JsonObject:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise AppLoadFailed(
            f"The list of trusted bundles, {path.name}, cannot be read. Restore it, or import the bundles again."
        ) from error
    return document if isinstance(document, dict) else {}
