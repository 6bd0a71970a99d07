"""Run a package from its folder, without a container: as a child process with the environment of the specification.

What a container would keep apart is not kept apart: the application sees this machine's files and network, and runs in
this Python. So this is for packages that one trusts.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labelserver.domain.errors import InvalidParams
from labelserver.export.map import layout, tools
from labelserver.export.map.files import Folder, opened


def run_folder(place: Path, source: Path, target: Path, words: Sequence[str] = ()) -> int:
    """Run the application of a build context, of an image's files, or of what `extract` wrote.

    Args:
        place: the folder.
        source: input folder.
        target: output folder; made if missing.
        words: further arguments of the application.

    Returns:
        Its exit status; 124 if it ran past the manifest's timeout; 126, 127 if it cannot be started.

    Raises:
        InvalidParams: no such folder, or a form that cannot be run in place.
        UnreadableFile: no manifest.
    """
    if not source.exists():
        raise InvalidParams(f"The input {str(source)!r} does not exist.")
    files = opened(place)
    if not isinstance(files, Folder):
        raise InvalidParams(f"{place.name} is an image. Load it into docker or podman and give its name.")
    manifest = _manifest(files)
    target.mkdir(parents=True, exist_ok=True)
    command = [_local(files, word) for word in tools.command_of(manifest.get("command", ""))]
    if command and command[0] in ("python", "python3"):
        command[0] = sys.executable  # where torch is; the package's image would bring its own
    environment = _environment(files, manifest, source, target)
    limit = tools.timeout_of(manifest)
    return tools.supervise([*command, *words], environment, str(target.absolute()), limit or _NEVER_S)


#: seconds; a limit keeps `supervise` from becoming the application, which would end this process
_NEVER_S = 10 * 365 * 86400.0


def _manifest(files: Folder) -> dict[str, Any]:
    try:
        document = json.loads(files.read(layout.APP_MANIFEST))
    except ValueError as error:
        raise InvalidParams(f"The package's app.json is no JSON: {error}.") from error
    if not isinstance(document, dict) or not tools.command_of(document.get("command", "")):
        raise InvalidParams("The package's app.json names no command. labelserver map check tells more.")
    return document


def _environment(files: Folder, manifest: Mapping[str, Any], source: Path, target: Path) -> dict[str, str]:
    """This process's, then the specification's and the manifest's with paths as they are here."""
    named = {**layout.ENVIRONMENT, **tools.environment_of(dict(manifest))}
    placed = {name: _local(files, value) for name, value in named.items()}
    places = {
        "HOLOSCAN_INPUT_PATH": str(source.absolute()),
        "HOLOSCAN_OUTPUT_PATH": str(target.absolute()),
        "HOLOSCAN_WORKDIR": str(target.absolute()),
    }
    return {**os.environ, **placed, **places}


def _local(files: Folder, text: str) -> str:
    """A path of the image as the path it has here; any other text as it is."""
    found = files.local(text) if text.startswith("/") else None
    return str(found.absolute()) if found is not None else text
