"""What an app's kept description belongs to: a hash of its code and options.

Apart from `loading`, because the server needs the hash at its start and must not wait for what loading an app needs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from labelserver import __version__


def code_hash(app_dir: Path, conf: Mapping[str, str]) -> str:
    """64 hex digits over main.py, lib/, `conf` and this package's version: what a kept description belongs to."""
    digest = hashlib.sha256(json.dumps([__version__, dict(conf)], sort_keys=True).encode())
    root = Path(app_dir)
    for path in [root / "main.py", *sorted((root / "lib").rglob("*"))]:
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(path.relative_to(root).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
