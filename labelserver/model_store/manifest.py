"""``manifest.json`` and ``decision.json`` to values and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from labelserver.domain.errors import StoredDataInvalid
from labelserver.domain.json_types import JsonObject
from labelserver.domain.models import Decision, ModelVersion, Verdict

T = TypeVar("T")

FORMAT = 1


def version_to_json(version: ModelVersion) -> JsonObject:
    return {"format": FORMAT, **asdict(version), "held_out": list(version.held_out)}


def version_from_json(document: JsonObject) -> ModelVersion:
    """Unknown keys are ignored: a newer release may have written them. Raises KeyError, TypeError or ValueError."""
    baseline_version = document.get("baseline_version")
    held_out = document.get("held_out")
    return ModelVersion(
        model=str(document["model"]),
        number=int(str(document["number"])),
        created_ts=float(str(document["created_ts"])),
        weights=str(document["weights"]),
        sha256=str(document["sha256"]),
        job_id=str(document.get("job_id", "")),
        publish_path=str(document.get("publish_path", "")),
        key_metric=str(document.get("key_metric", "")),
        metrics=_numbers(document, "metrics"),
        baseline_version=None if baseline_version is None else int(str(baseline_version)),
        baseline=_numbers(document, "baseline"),
        held_out=tuple(str(image_id) for image_id in held_out) if isinstance(held_out, list) else (),
        labels=_table(document, "labels"),
        extra=_table(document, "extra"),
    )


def read_version(folder: Path) -> ModelVersion:
    """Raises `StoredDataInvalid`."""
    return _read(folder / "manifest.json", version_from_json)


def decision_to_json(decision: Decision) -> JsonObject:
    return {"format": FORMAT, "verdict": decision.verdict.value, "reason": decision.reason, "ts": decision.ts}


def read_decision(folder: Path) -> Decision | None:
    """None if no decision was taken yet. Raises `StoredDataInvalid`."""
    path = folder / "decision.json"
    return _read(path, _decision_from_json) if path.exists() else None


def _decision_from_json(document: JsonObject) -> Decision:
    return Decision(Verdict(str(document["verdict"])), str(document["reason"]), float(str(document["ts"])))


def _read(path: Path, parse: Callable[[JsonObject], T]) -> T:
    try:
        document = json.loads(path.read_text())
        if not isinstance(document, dict):
            raise TypeError("not an object")
        return parse(document)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoredDataInvalid(
            f"{path.parent.parent.name}/{path.parent.name}/{path.name} cannot be read ({error}); "
            "restore it from a backup, or remove this version's folder."
        ) from error


def _table(document: JsonObject, key: str) -> JsonObject:
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _numbers(document: JsonObject, key: str) -> dict[str, float]:
    return {name: float(value) for name, value in _table(document, key).items() if isinstance(value, int | float)}
