"""The two manifests of a package, as our images have them.

`command` is a text that holds a JSON list, because hosts expect that; `models` is a list, as the specification says.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from labelserver import __version__
from labelserver.domain.json_types import JsonObject
from labelserver.export.map import layout


@dataclass(frozen=True, slots=True)
class Resources:
    """What a host should give the application."""

    cpu: int = 2
    gpu: int = 0  #: more than 0 only for a model that cannot do without: hosts refuse to start with fewer
    memory: str = "4Gi"
    shared_memory: str = "1Gi"


def app_manifest(version: str, timeout_s: int) -> JsonObject:
    """``app.json``. `timeout_s`: 0 for none."""
    return {
        "apiVersion": layout.SPECIFICATION,
        "type": "application",
        "command": json.dumps(["python3", layout.APP]),
        "environment": dict(layout.ENVIRONMENT),
        "input": {"path": "input/", "formats": ["file"]},
        "output": {"path": "output/", "format": "file", "formats": ["file"]},
        "readiness": None,
        "liveness": None,
        "sdk": "labelserver",
        "sdkVersion": __version__,
        "timeout": timeout_s,
        "version": version,
        "workingDirectory": f"{layout.WORK}/",
    }


def package_manifest(version: str, models: list[str], resources: Resources) -> JsonObject:
    """``pkg.json``. `models`: folders below the model root."""
    return {
        "apiVersion": layout.SPECIFICATION,
        "applicationRoot": f"{layout.APP}/",
        "modelRoot": f"{layout.MODELS}/",
        "models": [{"name": name, "path": name} for name in models],
        "resources": {
            "cpu": resources.cpu,
            "gpu": resources.gpu,
            "memory": resources.memory,
            "sharedMemory": resources.shared_memory,
        },
        "version": version,
        "platformConfig": "dgpu" if resources.gpu else "cpu",
    }
