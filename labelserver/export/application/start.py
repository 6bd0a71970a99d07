"""Where ``python <this folder> IN OUT`` begins: becomes ``__main__.py`` of an exported application."""

from __future__ import annotations

import sys
from pathlib import Path

HOME = Path(__file__).resolve().parent
if str(HOME) not in sys.path:
    sys.path.insert(0, str(HOME))

from labelserver.export.application.runtime.main import run  # noqa: E402 - it lies beside this file

if __name__ == "__main__":
    sys.exit(run(home=HOME))
