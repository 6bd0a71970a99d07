"""``labelserver doctor``: what is installed, what the machine has, what is wrong and what to do about it.

Versions are read from package metadata; torch alone is imported, because only it knows the devices.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from labelserver.cli.failing import CommandFailed
from labelserver.cli.pairs import split_pairs

PYTHONS = ((3, 11), (3, 13))
#: packages worth a line in a bug report
SHOWN = (
    "torch",
    "monai",
    "pytorch-ignite",
    "numpy",
    "nibabel",
    "pydicom",
    "highdicom",
    "fastapi",
    "uvicorn",
    "pydantic",
)

#: bytes; below the first it cannot work, below the second it is tight
MEMORY_LIMITS = (2 * 2**30, 6 * 2**30)
DISK_LIMITS = (1 * 2**30, 10 * 2**30)


class Level(StrEnum):
    OK = "ok"
    NOTE = "note"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `advice` says what to do unless all is well."""

    level: Level
    what: str
    found: str
    advice: str = ""


def version_lines() -> list[str]:
    """``name version`` of Python and of the packages that matter."""
    lines = [f"python {platform.python_version()} on {platform.system()} {platform.machine()}"]
    return lines + [f"{name} {_version(name) or 'is missing'}" for name in SHOWN]


def doctor(
    app: Annotated[Path | None, typer.Option("--app", "-a", help="Also check this app.")] = None,
    studies: Annotated[Path | None, typer.Option("--studies", "-s", help="Also check these studies.")] = None,
    conf: Annotated[
        list[str] | None, typer.Option("--conf", "-c", metavar="KEY VALUE", help="Option of the app; repeatable.")
    ] = None,
    port: Annotated[int, typer.Option("--port", "-p", help="Is this port free?")] = 8000,
) -> None:
    """Print versions, devices, free disk and memory, and what is wrong; exit status 1 if anything is."""
    from labelserver.cli.showing import print_table

    findings = [*_python(), *_packages(), *_devices(), *_memory(), *_disk(app, studies), *_port(port)]
    if app is not None:
        findings += _app(app, studies, split_pairs(conf or []))
    if studies is not None:
        findings += _studies(studies)
    print_table("", ("", "what", "found"), [(f.level.value, f.what, f.found) for f in findings], "")
    for finding in findings:
        if finding.advice:
            typer.echo(f"{finding.level.value}: {finding.what}: {finding.advice}")
    wrong = sum(finding.level is Level.WRONG for finding in findings)
    if wrong:
        raise CommandFailed(f"{wrong} thing{'s are' if wrong > 1 else ' is'} wrong; see above for what to do.")
    typer.echo("Nothing is wrong.")


def _python() -> Iterator[Finding]:
    found = f"{platform.python_version()} ({sys.executable})"
    if PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        yield Finding(Level.OK, "python", found)
    else:
        yield Finding(Level.WRONG, "python", found, "install Python 3.11, 3.12 or 3.13 and labelserver into it")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _packages() -> Iterator[Finding]:
    """Each requirement of ours against what is installed."""
    from packaging.requirements import Requirement

    shown = set(SHOWN)
    for text in metadata.requires("labelserver") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        if not version:
            advice = f"install it: {sys.executable} -m pip install '{requirement}'"
            yield Finding(Level.WRONG, requirement.name, "missing", advice)
        elif not requirement.specifier.contains(version, prereleases=True):
            advice = f"needs {requirement.specifier}: {sys.executable} -m pip install --upgrade '{requirement}'"
            yield Finding(Level.WRONG, requirement.name, version, advice)
        elif requirement.name in shown:
            yield Finding(Level.OK, requirement.name, version)
    if _version("monailabel"):
        yield Finding(
            Level.NOTE,
            "monailabel",
            _version("monailabel"),
            "it is installed too, so apps that import monailabel get that package and not this one; "
            "use an environment without it to run such apps here",
        )


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library is missing
        yield Finding(Level.WRONG, "torch", "cannot be imported", f"reinstall it ({error})")
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding(Level.OK, "processor", f"{cores} cores, torch uses {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            name = torch.cuda.get_device_name(number)
            yield Finding(Level.OK, f"device cuda:{number}", f"{name}, {_gib(free)} of {_gib(total)} free")
    elif shutil.which("nvidia-smi"):
        advice = "there is an NVIDIA driver but torch cannot use it: install a torch build for its CUDA version"
        yield Finding(Level.NOTE, "device", f"cpu only (torch {torch.__version__})", advice)
    else:
        yield Finding(Level.OK, "device", "cpu")


def _memory() -> Iterator[Finding]:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        table = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if len(line.split()) > 1}
    except OSError:  # not Linux
        return
    free = table["MemAvailable"]
    found = f"{_gib(free)} of {_gib(table['MemTotal'])} available"
    advice = "a 3-D network needs a few GiB; end other programs or use a larger machine"
    yield _limited("memory", free, MEMORY_LIMITS, found, advice)


def _disk(app: Path | None, studies: Path | None) -> Iterator[Finding]:
    from labelserver.storage.space import low_space

    for what, folder in (("here", Path.cwd()), ("app", app), ("studies", studies)):
        if folder is None or not folder.is_dir():
            continue
        free = shutil.disk_usage(folder).free
        advice = "labels, model versions and caches grow; free some space"
        yield _limited(f"disk ({what})", free, DISK_LIMITS, f"{_gib(free)} free in {folder.absolute()}", advice)
        low = low_space(folder)
        if low:
            yield Finding(Level.NOTE, f"disk ({what})", "nearly full", low)
        if not os.access(folder, os.W_OK):
            advice = "make it writable for this user"
            if what == "studies":
                advice += ", or name another folder for labels in LABELSERVER_LABELS_DIR"
            level = Level.NOTE if what == "here" else Level.WRONG
            yield Finding(level, f"disk ({what})", "not writable", advice)


def _limited(what: str, value: int, limits: tuple[int, int], found: str, advice: str) -> Finding:
    level = Level.WRONG if value < limits[0] else Level.NOTE if value < limits[1] else Level.OK
    return Finding(level, what, found, "" if level is Level.OK else advice)


def _port(port: int) -> Iterator[Finding]:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            yield Finding(Level.OK, "port", f"{port} is free")
        except OSError:
            yield Finding(Level.NOTE, "port", f"{port} is taken", "a server may run already; or choose another --port")


def _app(app: Path, studies: Path | None, conf: dict[str, str]) -> Iterator[Finding]:
    """Load the app as a worker does."""
    from labelserver.app.loading import load_app
    from labelserver.domain.errors import AppLoadFailed

    if not (app / "main.py").is_file():
        yield Finding(Level.WRONG, "app", "has no main.py", "name a folder that `labelserver apps --download` made")
        return
    if studies is None:
        yield Finding(Level.OK, "app", "has a main.py; name --studies, too, to load it")
        return
    try:
        loaded = load_app(app.absolute(), str(studies.absolute()), conf)
    except AppLoadFailed as error:
        yield Finding(Level.WRONG, "app", "does not load", error.message)
        return
    models = loaded.info().get("models", {})
    names = ", ".join(models) if isinstance(models, dict) else ""
    advice = "" if names else "none of its models is on; name some with --conf models"
    yield Finding(Level.OK if names else Level.NOTE, "app", f"loads; models: {names or 'none'}", advice)


def _studies(studies: Path) -> Iterator[Finding]:
    from labelserver.cli.dataset_verbs import open_store

    if not studies.is_dir():
        yield Finding(Level.WRONG, "studies", "no such folder", "name the folder with the images in --studies")
        return
    store = open_store(studies)
    status = store.status()
    yield Finding(Level.OK, "studies", f"{status['total']} images, {status['completed']} labeled")
    store.upkeep.look_after(hurry=True)
    for problem in store.problems():
        yield Finding(Level.NOTE, f"studies: {problem.path}", "not taken", problem.reason)
    aside = sorted(store.layout.quarantine.glob("*")) if store.layout.quarantine.is_dir() else []
    if aside:
        advice = "look at them, then remove them or set LABELSERVER_KEEP_TRASH_DAYS and run `labelserver prune`"
        yield Finding(Level.NOTE, "studies: set aside", f"{len(aside)} files in {store.layout.quarantine}", advice)
    store.close()


def _gib(size_bytes: float) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"
