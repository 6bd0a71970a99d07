"""The package ``scripts`` that bundles ship: each bundle's own, while something of that bundle is being built.

All bundles use the same name, so one lock makes it one bundle's at a time, and nothing of it stays importable after.
Compiled files beside the sources are neither read nor written: they would not be covered by the bundle's checksums.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labelserver.tasks import bundle_trust

_SCRIPTS = "scripts"
#: no folder: Python finds no compiled file there and can write none
_NOWHERE = "/dev/null/pycache"

lock = threading.RLock()


@contextmanager
def scripts_of(bundle: Path) -> Iterator[None]:
    """Let ``scripts`` be this bundle's package inside the block.

    Raises:
        AppLoadFailed: the bundle's code is not what was imported (see `bundle_trust`).
    """
    with lock:
        bundle_trust.ensure_trusted(bundle, programs=False)
        _forget()
        compiled, writing = sys.pycache_prefix, sys.dont_write_bytecode
        sys.pycache_prefix, sys.dont_write_bytecode = _NOWHERE, True
        sys.path.insert(0, str(bundle))
        try:
            yield
        finally:
            sys.path.remove(str(bundle))
            sys.pycache_prefix, sys.dont_write_bytecode = compiled, writing
            _forget()


def _forget() -> None:
    for name in [n for n in sys.modules if n == _SCRIPTS or n.startswith(f"{_SCRIPTS}.")]:
        del sys.modules[name]
