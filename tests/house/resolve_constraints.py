"""Ask pip whether constraints.txt resolves for the Python versions given as arguments. Run by `make resolve`.

Nothing is installed. torch and what requires it (MONAI, ignite) are looked at without their requirements, because a
machine without a CPU index would fetch gigabytes to read the metadata of a GPU build; the rest is resolved in full.
A machine without a package index passes with a visible line.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: pip's words when the network, not a pin, is at fault.
OFFLINE = ("NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "ReadTimeoutError", "ProxyError")


def pins() -> dict[str, str]:
    """Name in lower case -> requirement, of every line of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {line.split("==")[0].lower().replace("_", "-"): line for line in lines if line and not line.startswith("#")}


def needs_torch(name: str) -> bool:
    return name in ("torch", "monai", "pytorch-ignite")


def wanted() -> list[str]:
    """What the package and its developers ask for, in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    found = list(project["dependencies"])
    for line in extras["dev"]:  # one may name another extra of the package itself
        own = line.removeprefix("labelserver[").removesuffix("]")
        found += extras[own] if own != line and own in extras else [line]
    return found


def dry_run(version: str, requirements: list[str], *options: str) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "requirements.txt"
        listed.write_text("\n".join(requirements) + "\n")
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--dry-run", "--quiet"]
        command += ["--ignore-installed", "--only-binary=:all:", "--python-version", version]
        command += ["--target", str(Path(folder) / "target"), "-r", str(listed), *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def main(versions: list[str]) -> int:
    known = pins()
    names = {line: line.split(">")[0].split("=")[0].lower() for line in wanted()}
    light = [line for line, name in names.items() if not needs_torch(name)]
    heavy = [line for name, line in known.items() if needs_torch(name) and name != "torch"]
    light_pins = [line for name, line in known.items() if not needs_torch(name)]
    for version in versions:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write("\n".join(light_pins) + "\n")
            file.flush()
            results = [dry_run(version, light, "--constraint", file.name), dry_run(version, heavy, "--no-deps")]
        for result in results:
            if result.returncode == 0:
                continue
            if any(word in result.stderr for word in OFFLINE):
                print(f"SKIPPED: no package index answers, so Python {version} was not resolved.")
                return 0
            print(f"constraints.txt does not resolve for Python {version}:\n{result.stderr}")
            return 1
        print(f"constraints.txt resolves for Python {version}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
