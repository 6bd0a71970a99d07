"""Container engines: which of docker, podman and buildah works here, and how each is told to build and to run."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labelserver.domain.errors import Absent, InvalidParams
from labelserver.export.map import layout
from labelserver.export.map.tools import TIMED_OUT

#: In this order. buildah builds, but does not run packages.
ENGINES = ("docker", "podman", "buildah")
#: seconds to find out whether an engine works
_PROBE_S = 30.0
#: seconds beside the manifest's timeout, for starting and removing a container
_MARGIN_S = 60.0

Call = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True, slots=True)
class Engine:
    """A program that works."""

    name: str
    program: str

    def build(self, context: Path, image: str, arguments: Mapping[str, str]) -> list[str]:
        """The command that builds."""
        words = [self.program, "build", "--tag", image]
        for name, value in arguments.items():
            words += ["--build-arg", f"{name}={value}"]
        return [*words, "--file", str(context / "Dockerfile"), str(context)]

    def run(
        self, image: str, source: Path, target: Path, manifest: Mapping[str, Any], words: Sequence[str]
    ) -> list[str]:
        """The command that runs a package: no network, the host's user 1000, input read-only."""
        environment = {str(k): str(v) for k, v in (manifest.get("environment") or {}).items()}
        work = str(manifest.get("workingDirectory") or f"{layout.WORK}/")
        inside = {
            side: _inside(work, str((manifest.get(side) or {}).get("path") or f"{side}/"))
            for side in ("input", "output")
        }
        environment |= {"HOLOSCAN_INPUT_PATH": inside["input"], "HOLOSCAN_OUTPUT_PATH": inside["output"]}
        command = [self.program, "run", "--rm", "--network", "none", "--user", f"{layout.USER}:{layout.USER}"]
        for name, value in environment.items():
            command += ["--env", f"{name}={value}"]
        command += ["--volume", f"{source.absolute()}:{inside['input']}:ro"]
        command += ["--volume", f"{target.absolute()}:{inside['output']}"]
        return [*command, image, *words]


def engine(names: Sequence[str] = ENGINES) -> Engine | None:
    """The first that is installed and answers."""
    for name in names:
        program = shutil.which(name)
        if program is None:
            continue
        try:
            done = subprocess.run([program, "info"], capture_output=True, timeout=_PROBE_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            return Engine(name, program)
    return None


def build(context: Path, image: str, arguments: Mapping[str, str]) -> int:
    """Build the context with whatever engine there is. Returns the engine's exit status.

    Raises:
        InvalidParams: this is no build context.
        Absent: no engine works here; the sentence holds the command for another machine.
    """
    if not (context / "Dockerfile").is_file():
        raise InvalidParams(f"{context.name} is no build context: it has no Dockerfile.")
    found = engine()
    if found is None:
        command = Engine("docker", "docker").build(Path(), image, arguments)
        raise Absent(
            f"None of {', '.join(ENGINES)} works here. Copy the folder {context.name} to a machine that has one, and "
            f"run in it: {shlex.join(command)}"
        )
    return subprocess.run(found.build(context, image, arguments), check=False).returncode


def run_image(image: str, source: Path, target: Path, words: Sequence[str]) -> int:
    """Run a package's image. Returns the application's exit status, 124 if it ran past its manifest's timeout.

    Raises:
        Absent: neither docker nor podman works here; says the command for another machine.
        InvalidParams: the image has no readable manifest.
    """
    found = engine(("docker", "podman"))
    if found is None:
        command = Engine("docker", "docker").run(image, source, target, {}, words)
        raise Absent(
            "Neither docker nor podman works here. Give the package's folder instead of an image, or run elsewhere: "
            f"{shlex.join(command)}"
        )
    manifest = _manifest(found, image)
    limit = float(manifest.get("timeout") or 0)
    try:
        done = subprocess.run(
            found.run(image, source, target, manifest, words), check=False, timeout=limit + _MARGIN_S if limit else None
        )
    except subprocess.TimeoutExpired:
        return TIMED_OUT
    return done.returncode


def _manifest(found: Engine, image: str) -> dict[str, Any]:
    """From the image itself, whatever its entry point is."""
    words = [found.program, "run", "--rm", "--network", "none", "--entrypoint", "cat", image, layout.APP_MANIFEST]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    try:
        document = json.loads(done.stdout) if done.returncode == 0 else None
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise InvalidParams(
            f"The image {image!r} cannot be read as an application package: {done.stderr.strip()[:200]}"
        )
    return document


def _inside(work: str, path: str) -> str:
    return path if path.startswith("/") else f"{work.rstrip('/')}/{path}"
