#!/usr/bin/env python3
"""Entry point of a MONAI Application Package.

    (nothing, or words that are not below)   run the application; the words are its arguments
    show [app|pkg]                           print one manifest or both
    extract                                  copy the package's contents into what is mounted below
                                             /var/run/holoscan/export: app, config, models, docs, or all of them
    help                                     this text

Exit status: the application's own; 124 if it ran past the manifest's timeout; 126 or 127 if it cannot be started; 128
and the signal's number if it was ended by one. Needs Python alone.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

EXPORT = "/var/run/holoscan/export"
TIMED_OUT, CANNOT_RUN, NOT_FOUND = 124, 126, 127

#: seconds between the request to end and the end, for an application that ran too long
GRACE_S = 10.0

#: what is copied for each folder below the export mount: variables that hold paths, and their defaults
PARTS = {
    "app": {"HOLOSCAN_APPLICATION": "/opt/holoscan/app"},
    "config": {
        "HOLOSCAN_CONFIG_PATH": "/var/holoscan/app.yaml",
        "HOLOSCAN_APP_MANIFEST_PATH": "/etc/holoscan/app.json",
        "HOLOSCAN_PKG_MANIFEST_PATH": "/etc/holoscan/pkg.json",
    },
    "models": {"HOLOSCAN_MODEL_PATH": "/opt/holoscan/models"},
    "docs": {"HOLOSCAN_DOCS": "/opt/holoscan/docs"},
}

Say = Callable[[str], object]


def main(words: Sequence[str], root: str = "/", say: Say = print) -> int:
    """Do what the words say. `root`: where the image's files lie."""
    if list(words[:1]) == ["show"] and len(words) < 3:
        return show(words[1] if len(words) == 2 else "", root, say)
    if list(words) == ["extract"]:
        return extract(root, say)
    if list(words) == ["help"]:
        say(__doc__ or "")
        return 0
    manifest = read_manifest("HOLOSCAN_APP_MANIFEST_PATH", "/etc/holoscan/app.json", root)
    environment = {**environment_of(manifest), **os.environ}
    command = [*command_of(manifest.get("command", "")), *words]
    return supervise(
        command, environment, str(manifest.get("workingDirectory") or "/var/holoscan/"), timeout_of(manifest)
    )


def show(which: str, root: str, say: Say) -> int:
    """Print manifests as they are."""
    names = {"app": ("HOLOSCAN_APP_MANIFEST_PATH", "/etc/holoscan/app.json")}
    names["pkg"] = ("HOLOSCAN_PKG_MANIFEST_PATH", "/etc/holoscan/pkg.json")
    if which and which not in names:
        say("show app, show pkg, or show both with: show")
        return 2
    for name in [which] if which else list(names):
        say(inside(os.environ.get(names[name][0]) or names[name][1], root).read_text(encoding="utf-8"))
    return 0


def extract(root: str, say: Say) -> int:
    """Copy the contents of each part into its folder below the export mount."""
    mount = inside(EXPORT, root)
    if not mount.is_dir():
        say(f"Nothing is mounted at {EXPORT}. Mount a folder there, or at {EXPORT}/app, config, models or docs.")
        return 1
    wanted = [name for name in PARTS if (mount / name).is_dir()] or list(PARTS)
    for name in wanted:
        target = mount / name
        target.mkdir(exist_ok=True)
        for variable, default in PARTS[name].items():
            source = inside(os.environ.get(variable) or default, root)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True, copy_function=shutil.copyfile)
            elif source.is_file():
                shutil.copyfile(source, target / source.name)
        say(f"{name}: copied to {EXPORT}/{name}")
    return 0


def read_manifest(variable: str, default: str, root: str) -> dict[str, Any]:
    document = json.loads(inside(os.environ.get(variable) or default, root).read_text(encoding="utf-8"))
    return document if isinstance(document, dict) else {}


def environment_of(manifest: dict[str, Any]) -> dict[str, str]:
    return {str(name): str(value) for name, value in (manifest.get("environment") or {}).items()}


def command_of(text: object) -> list[str]:
    """The words of a manifest's command: a list, a JSON list in a text, or a line for a shell."""
    if isinstance(text, list):
        return [str(word) for word in text]
    line = str(text).strip()
    if line.startswith("["):
        try:
            listed = json.loads(line)
        except ValueError:
            listed = None
        if isinstance(listed, list):
            return [str(word) for word in listed]
    plain = not set(line) & set("|&;<>$`*?~(){}\n")
    return shlex.split(line) if plain else ["/bin/sh", "-c", f'{line} "$@"', "sh"]


def timeout_of(manifest: dict[str, Any]) -> float:
    """Seconds; 0: no limit."""
    found = manifest.get("timeout") or 0
    return float(found) if isinstance(found, int | float) and found > 0 else 0.0


def supervise(command: Sequence[str], environment: dict[str, str], folder: str, timeout_s: float) -> int:
    """Run the command and end with it. Without a limit this process becomes the command."""
    where = folder if Path(folder).is_dir() else None
    try:
        if not timeout_s:
            if where:
                os.chdir(where)
            sys.stdout.flush()
            os.execvpe(command[0], list(command), environment)  # noqa: S606 - the package's own command
        process = subprocess.Popen(list(command), env=environment, cwd=where)
    except FileNotFoundError:
        print(f"{command[0]!r} is not in this image.", file=sys.stderr)  # noqa: T201
        return NOT_FOUND
    except (OSError, IndexError) as error:
        print(f"The command {list(command)} cannot be started: {error}", file=sys.stderr)  # noqa: T201
        return CANNOT_RUN
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda found, _: process.send_signal(found))
    try:
        status = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        print(f"The application was ended after {timeout_s:g} s, its manifest's timeout.", file=sys.stderr)  # noqa: T201
        process.terminate()
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return TIMED_OUT
    return status if status >= 0 else 128 - status


def inside(path: str, root: str) -> Path:
    """An image's path where its files lie."""
    return Path(root) / path.lstrip("/")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
