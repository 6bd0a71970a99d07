"""Fill a context's ``wheels`` folder, so that its image can be built where there is no network.

pip fetches what the requirements name; then every wheel is written down with its hash, so that the build installs
exactly these bytes.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from labelserver.domain.errors import Absent, InvalidParams

_WHEEL = re.compile(r"^(?P<name>[^-]+)-(?P<version>[^-]+)(-\d[^-]*)?-[^-]+-[^-]+-[^-]+\.whl$")


def fill(context: Path, python: str = "3.12", options: Sequence[str] = ()) -> list[str]:
    """Download wheels for an interpreter and pin them by hash.

    Args:
        context: a build context.
        python: version of the image's interpreter.
        options: further words for ``pip download``, such as an index.

    Returns:
        The pinned requirements.

    Raises:
        InvalidParams: this is no build context.
        Absent: pip could not get everything; with its last line.
    """
    requirements = context / "app" / "requirements.txt"
    if not requirements.is_file():
        raise InvalidParams(f"{context.name} is no build context: it has no app/requirements.txt.")
    folder = context / "wheels"
    folder.mkdir(exist_ok=True)
    words = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--dest", str(folder)]
    words += ["--only-binary=:all:", "--python-version", python, "--requirement", str(requirements), *options]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = ([line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"])[-1]
        raise Absent(f"The wheels cannot be fetched: {last.strip()}")
    pins = sorted(pin_of(path) for path in folder.glob("*.whl"))
    (folder / "requirements.txt").write_text("".join(f"{pin}\n" for pin in pins))
    return pins


def pin_of(wheel: Path) -> str:
    """``name==version --hash=sha256:...``. Raises `InvalidParams`."""
    found = _WHEEL.match(wheel.name)
    if found is None:
        raise InvalidParams(f"{wheel.name} is not named as a wheel is.")
    digest = hashlib.sha256()
    with wheel.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return f"{found['name'].replace('_', '-')}=={found['version']} --hash=sha256:{digest.hexdigest()}"
