"""Check a package against the MONAI Application Package specification 1.0.0, and against what hosts do.

Each finding names its rule. MUST and SHALL of the specification are errors, SHOULD is advice; rules that begin with H
are what hosts and tools in use need beyond the text. What only a running container shows (`show`, `extract`) is not
looked at here.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labelserver.domain.errors import UnreadableFile
from labelserver.export.map import layout
from labelserver.export.map.files import ImageConfig, PackageFiles, opened
from labelserver.export.map.tools import command_of

_VERSION = re.compile(r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$")
_AMOUNT = re.compile(r"^\d+(\.\d)?(Mi|Gi)$")
_PROBES = {"tcp": ("port",), "grpc": ("port",), "http-get": ("port", "path"), "command": ("command",)}
_NUMBERS = ("cpu", "cpuLimit", "gpu", "gpuLimit")
_AMOUNTS = ("memory", "memoryLimit", "gpuMemory", "gpuMemoryLimit", "sharedMemory", "sharedMemoryLimit")
_DESCRIPTIONS = ("created", "authors", "source", "licenses", "description", "revision")


@dataclass(frozen=True, slots=True)
class Finding:
    """What is not as the specification wants it. `error`: a MUST or SHALL; else advice."""

    rule: str
    error: bool
    message: str

    def __str__(self) -> str:
        return f"{'error' if self.error else 'advice'} {self.rule}: {self.message}"


def check(place: Path) -> list[Finding]:
    """Findings in the order of the rules; empty: none.

    Args:
        place: a build context, an image's files, what `extract` wrote, or an OCI image layout.

    Raises:
        InvalidParams: this is no package in any form.
        UnreadableFile: an image that cannot be read.
    """
    files = opened(place)
    app, package = _Document(files, layout.APP_MANIFEST), _Document(files, layout.PACKAGE_MANIFEST)
    found = [*app.findings("P1"), *package.findings("P2")]
    if app.content is not None:
        found += _app_manifest(app.content)
    if package.content is not None:
        found += _package_manifest(package.content)
    found += _folders(files, package.content or {})
    found += _environment(files.config, app.content or {})
    if files.config is not None:
        found += _image(files, files.config, app.content or {})
    return found


class _Document:
    """A manifest: its object, or why there is none."""

    def __init__(self, files: PackageFiles, path: str) -> None:
        self.path = path
        self.content: Mapping[str, Any] | None = None
        self.problem = ""
        try:
            document = json.loads(files.read(path).decode("utf-8"))
            if isinstance(document, Mapping):
                self.content = document
            else:
                self.problem = "is no JSON object"
        except UnreadableFile:
            self.problem = "is missing"
        except ValueError as error:
            self.problem = f"is not JSON in UTF-8 ({error})"

    def findings(self, rule: str) -> Iterator[Finding]:
        if self.problem:
            yield Finding(rule, True, f"{self.path} {self.problem}.")


def _app_manifest(app: Mapping[str, Any]) -> Iterator[Finding]:
    yield from _version(app, "apiVersion", "A1", "app.json")
    if app.get("type") not in ("application", "service"):
        yield Finding("A2", True, f"app.json#type must be application or service, not {app.get('type')!r}.")
    yield from _command(app.get("command"))
    environment = app.get("environment")
    if environment is not None and not _texts(environment):
        yield Finding("A4", True, "app.json#environment must be an object of texts.")
    yield from _data(app.get("input"), "input", "A5", ("formats",))
    yield from _data(app.get("output"), "output", "A6", ("format", "formats"))
    for name, rule in (("readiness", "A7"), ("liveness", "A8")):
        yield from _probe(app.get(name), name, rule)
    yield from _version(app, "sdkVersion", "A9", "app.json", required=False)
    timeout = app.get("timeout", 0)
    if not isinstance(timeout, int) or isinstance(timeout, bool) or timeout < 0:
        yield Finding("A10", True, f"app.json#timeout must be whole seconds, 0 for none, not {timeout!r}.")
    yield from _version(app, "version", "A11", "app.json")
    folder = app.get("workingDirectory", "/var/holoscan/")
    if not isinstance(folder, str) or not folder.startswith("/"):
        yield Finding("A12", True, f"app.json#workingDirectory must be an absolute path, not {folder!r}.")


def _command(command: object) -> Iterator[Finding]:
    if not isinstance(command, str) or not command.strip():
        yield Finding("A3", True, "app.json#command must be a text: what runs the application.")
    elif not command_of(command):
        yield Finding("A3", True, "app.json#command has no words.")
    elif not command.strip().startswith("["):
        yield Finding("H1", False, "app.json#command is no JSON list in a text; some hosts read only that.")


def _data(part: object, name: str, rule: str, keys: tuple[str, ...]) -> Iterator[Finding]:
    if not isinstance(part, Mapping):
        yield Finding(rule, True, f"app.json#{name} is missing.")
        return
    given = [part[key] for key in keys if part.get(key)]
    if not given:
        yield Finding(rule, True, f"app.json#{name}.{keys[0]} is missing.")
    elif name == "input" and not isinstance(given[0], list):
        yield Finding(rule, True, "app.json#input.formats must be a list.")
    path = part.get("path", f"{name}/")
    if not isinstance(path, str) or not path:
        yield Finding(rule, True, f"app.json#{name}.path must be a text.")


def _probe(probe: object, name: str, rule: str) -> Iterator[Finding]:
    if probe is None:
        return
    kind = probe.get("type") if isinstance(probe, Mapping) else None
    if not isinstance(probe, Mapping) or kind not in _PROBES:
        yield Finding(rule, True, f"app.json#{name}.type must be one of {', '.join(_PROBES)}.")
        return
    for key in _PROBES[str(kind)]:
        value = probe.get(key)
        good = {
            "port": isinstance(value, int) and 1 <= value <= 65535,
            "path": isinstance(value, str) and value.startswith("/"),
            "command": isinstance(value, list) and bool(value),
        }[key]
        if not good:
            yield Finding(rule, True, f"app.json#{name}.{key} is missing or makes no sense for a {kind} probe.")


def _package_manifest(package: Mapping[str, Any]) -> Iterator[Finding]:
    yield from _version(package, "apiVersion", "K1", "pkg.json")
    for key, rule, required in (("applicationRoot", "K2", True), ("modelRoot", "K3", False)):
        value = package.get(key)
        if (value is not None or required) and not (isinstance(value, str) and value.startswith("/")):
            yield Finding(rule, True, f"pkg.json#{key} must be an absolute path, not {value!r}.")
    yield from _models(package.get("models"))
    resources = package.get("resources")
    if resources is not None and not isinstance(resources, Mapping):
        yield Finding("K5", True, "pkg.json#resources must be an object.")
    elif resources:
        yield from _resources(resources, "pkg.json#resources")
        fragments = resources.get("fragments") or {}
        for name, part in fragments.items() if isinstance(fragments, Mapping) else ():
            if isinstance(part, Mapping):
                yield from _resources(part, f"pkg.json#resources.fragments.{name}")
    yield from _version(package, "version", "K6", "pkg.json")


def _models(models: object) -> Iterator[Finding]:
    if models is None:
        return
    if isinstance(models, Mapping):
        yield Finding("K4", True, "pkg.json#models must be a list of objects with a name, not an object.")
        return
    for item in models if isinstance(models, list) else [models]:
        name = item.get("name") if isinstance(item, Mapping) else None
        if not isinstance(name, str) or not name or len(name.encode()) > 128 or re.search(r"[\s\x00-\x1f\x7f]", name):
            yield Finding("K4", True, f"pkg.json#models: {name!r} must be 1 to 128 bytes without white space.")


def _resources(part: Mapping[str, Any], where: str) -> Iterator[Finding]:
    for key in _NUMBERS:
        value = part.get(key)
        if value is not None and not _decimal(value):
            yield Finding("K5", True, f"{where}.{key} must be a number that is not negative, with one place at most.")
    for key in _AMOUNTS:
        value = part.get(key)
        if value is not None and not (isinstance(value, str) and _AMOUNT.match(value)):
            yield Finding("K5", True, f"{where}.{key} must be a number with Mi or Gi, not {value!r}.")


def _decimal(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 and round(value, 1) == value


def _folders(files: PackageFiles, package: Mapping[str, Any]) -> Iterator[Finding]:
    root = str(package.get("applicationRoot") or layout.APP)
    if not files.below(root):
        yield Finding("P3", True, f"{root} holds no application.")
    models = str(package.get("modelRoot") or layout.MODELS)
    listed = package.get("models")
    for item in listed if isinstance(listed, list) else []:
        name = str(item.get("path") or item.get("name")) if isinstance(item, Mapping) else ""
        inside = [entry for entry in files.below(posixpath.join(models, name)) if name]
        if not inside:
            yield Finding("P4", False, f"The model {name!r} is not in {models}; it has to be mounted.")
        elif len(inside) != 1:
            yield Finding("H2", False, f"The model {name!r} has {len(inside)} files; some hosts load only one file.")
    loose = [e.path for e in files.below(models) if posixpath.dirname(e.path) == posixpath.normpath(models)]
    if loose:
        yield Finding("P5", False, f"{loose[0]} should be in a folder of its own below {models}.")
    if not any(posixpath.basename(e.path).lower().startswith("readme") for e in files.below(layout.DOCS)):
        yield Finding("P6", False, f"{layout.DOCS} has no README.")
    if files.find(layout.CONFIG) is None:
        yield Finding("P7", False, f"{layout.CONFIG} is missing.")


def _environment(config: ImageConfig | None, app: Mapping[str, Any]) -> Iterator[Finding]:
    known = dict(app.get("environment") or {}) if _texts(app.get("environment") or {}) else {}
    known |= dict(config.environment) if config else {}
    wanted = [name for name in layout.ENVIRONMENT if name != "HOLOSCAN_APPLICATION" and not name.endswith("_PATH")]
    wanted += [name for name in layout.ENVIRONMENT if name.endswith("_PATH")]
    either = {"HOLOSCAN_DOCS_PATH": "HOLOSCAN_DOCS", "HOLOSCAN_LOGS_PATH": "HOLOSCAN_LOGS"}
    for name in wanted:
        if name not in either and name not in known:
            yield Finding("E1", True, f"The variable {name} is not defined.")
    for name, other in either.items():
        if name not in known and other in known:
            yield Finding("H3", False, f"{other} is defined and {name} is not; hosts use either.")


def _image(files: PackageFiles, config: ImageConfig, app: Mapping[str, Any]) -> Iterator[Finding]:
    if not config.entry:
        yield Finding("I1", True, "The image has neither an entry point nor a command, so it starts nothing.")
    for name in ("title", "version"):
        if not config.labels.get(f"org.opencontainers.image.{name}"):
            yield Finding("I2", True, f"The label org.opencontainers.image.{name} is missing.")
    version = config.labels.get("org.opencontainers.image.version")
    if version and version != app.get("version"):
        yield Finding("I3", True, f"The label version is {version!r}, app.json#version {app.get('version')!r}.")
    absent = [name for name in _DESCRIPTIONS if f"org.opencontainers.image.{name}" not in config.labels]
    if len(absent) == len(_DESCRIPTIONS):
        yield Finding("I4", False, f"None of the labels {', '.join(absent)} is there.")
    if config.system != "linux" or config.architecture not in ("amd64", "arm64"):
        yield Finding("I5", True, f"The image is for {config.system}/{config.architecture}, not linux/amd64 or arm64.")
    if config.user.partition(":")[0] in ("", "0", "root"):
        yield Finding("H4", False, "The image runs as root.")
    run = files.find("/var/run/holoscan")
    if run is None or run.mode & 0o005 != 0o005:
        yield Finding(
            "H5", False, "/run/holoscan is missing or closed: a user that is not root cannot see the exports."
        )


def _version(
    document: Mapping[str, Any], key: str, rule: str, file: str, *, required: bool = True
) -> Iterator[Finding]:
    value = document.get(key)
    if value is None:
        if required:
            yield Finding(rule, False, f"{file}#{key} is missing; hosts then take 0.0.0.")
    elif not isinstance(value, str) or not _VERSION.match(value):
        yield Finding(rule, True, f"{file}#{key} must be a text such as 1.2.0, not {value!r}.")


def _texts(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(v, str) for v in value.values())


#: what a rule's number stands for, for documentation and `labelserver map check --rules`
RULES: Mapping[str, str] = {
    "P1": "/etc/holoscan/app.json is there, JSON in UTF-8 (SHALL)",
    "P2": "/etc/holoscan/pkg.json is there, JSON in UTF-8 (SHALL)",
    "P3": "the application is below pkg.json#applicationRoot (SHALL)",
    "P4": "each model of pkg.json is below the model root (SHOULD; it may be mounted)",
    "P5": "each model is in a folder of its own (SHOULD)",
    "P6": "/opt/holoscan/docs has a README (SHOULD)",
    "P7": "/var/holoscan/app.yaml is there (SHOULD)",
    "A1": "app.json#apiVersion is a semantic version (SHOULD)",
    "A2": "app.json#type is application or service (MUST)",
    "A3": "app.json#command is a text with words (MUST)",
    "A4": "app.json#environment is an object of texts (MUST)",
    "A5": "app.json#input has formats and a path (MUST)",
    "A6": "app.json#output has a format and a path (MUST)",
    "A7": "app.json#readiness is a whole probe (MUST)",
    "A8": "app.json#liveness is a whole probe (MUST)",
    "A9": "app.json#sdkVersion is a semantic version (MUST)",
    "A10": "app.json#timeout is whole seconds (MUST)",
    "A11": "app.json#version is a semantic version (MUST)",
    "A12": "app.json#workingDirectory is an absolute path (MUST)",
    "K1": "pkg.json#apiVersion is a semantic version (SHOULD)",
    "K2": "pkg.json#applicationRoot is an absolute path (MUST)",
    "K3": "pkg.json#modelRoot is an absolute path (MUST)",
    "K4": "pkg.json#models is a list of plain names (MUST)",
    "K5": "pkg.json#resources has plain numbers and amounts (MUST)",
    "K6": "pkg.json#version is a semantic version (MUST)",
    "E1": "the specification's variables are defined (SHALL)",
    "I1": "without arguments the image runs something (SHALL)",
    "I2": "labels for title and version (SHALL)",
    "I3": "the version label is app.json#version (SHALL)",
    "I4": "further predefined labels (SHOULD)",
    "I5": "linux on amd64 or arm64 (MUST)",
    "H1": "the command is a JSON list in a text",
    "H2": "one file in each model's folder",
    "H3": "both spellings of the variables for docs and logs",
    "H4": "a user that is not root",
    "H5": "/run/holoscan can be entered by any user",
}
