"""``manifest.json``, ``decision.json`` and the lines of ``history.jsonl`` to values and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from labelserver.domain.errors import StoredDataInvalid
from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.domain.models import (
    CaseMetrics,
    Decision,
    GateNumbers,
    GateRule,
    ModelAct,
    ModelEvent,
    ModelVersion,
    OutputLabel,
    Verdict,
)

T = TypeVar("T")

FORMAT = 1


def version_to_json(version: ModelVersion) -> JsonObject:
    outputs: list[JsonValue] = [asdict(output) for output in version.outputs]
    return {"format": FORMAT, **asdict(version), "held_out": list(version.held_out), "outputs": outputs}


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
        cases=_cases(document, "cases"),
        baseline_version=None if baseline_version is None else int(str(baseline_version)),
        baseline=_numbers(document, "baseline"),
        baseline_cases=_cases(document, "baseline_cases"),
        held_out=tuple(str(image_id) for image_id in held_out) if isinstance(held_out, list) else (),
        held_out_labels=_table(document, "held_out_labels"),
        labels=_table(document, "labels"),
        revisions=_table(document, "revisions"),
        network_hash=str(document.get("network_hash", "")),
        outputs=_outputs(document),
        extra=_table(document, "extra"),
    )


def read_version(folder: Path) -> ModelVersion:
    """Raises `StoredDataInvalid`."""
    return _read(folder / "manifest.json", version_from_json)


def decision_to_json(decision: Decision) -> JsonObject:
    return {"format": FORMAT, **asdict(decision), "numbers": _numbers_to_json(decision.numbers)}


def read_decision(folder: Path) -> Decision | None:
    """None if no decision was taken yet. Raises `StoredDataInvalid`."""
    path = folder / "decision.json"
    return _read(path, _decision_from_json) if path.exists() else None


def _decision_from_json(document: JsonObject) -> Decision:
    numbers = document.get("numbers")
    return Decision(
        Verdict(str(document["verdict"])),
        str(document["reason"]),
        float(str(document["ts"])),
        str(document.get("person", "")),
        _numbers_from_json(numbers) if isinstance(numbers, dict) else None,
    )


def _numbers_to_json(numbers: GateNumbers | None) -> JsonObject | None:
    if numbers is None:
        return None
    return {**asdict(numbers), "cases": {case: list(pair) for case, pair in numbers.cases.items()}}


def _numbers_from_json(document: JsonObject) -> GateNumbers:
    against, before, after = document.get("against"), document.get("before"), document.get("after")
    return GateNumbers(
        GateRule(str(document["rule"])),
        float(str(document["margin"])),
        None if against is None else int(str(against)),
        None if before is None else float(str(before)),
        None if after is None else float(str(after)),
        {
            case: (float(str(pair[0])), float(str(pair[1])))
            for case, pair in _table(document, "cases").items()
            if isinstance(pair, list) and len(pair) == 2
        },
    )


def event_to_json(event: ModelEvent) -> JsonObject:
    return asdict(event)


def event_from_json(line: JsonObject) -> ModelEvent | None:
    """None for a line of a newer release that cannot be understood."""
    try:
        return ModelEvent(
            ModelAct(str(line["act"])),
            int(str(line["number"])),
            float(str(line["ts"])),
            str(line.get("person", "")),
            str(line.get("reason", "")),
        )
    except (KeyError, ValueError):
        return None


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


def _cases(document: JsonObject, key: str) -> CaseMetrics:
    table = _table(document, key)
    return {image_id: _numbers(table, image_id) for image_id, value in table.items() if isinstance(value, dict)}


def _outputs(document: JsonObject) -> tuple[OutputLabel, ...]:
    listed = document.get("outputs")
    return tuple(
        OutputLabel(int(str(entry["channel"])), str(entry["name"]), str(entry.get("schema_id", "")))
        for entry in (listed if isinstance(listed, list) else ())
        if isinstance(entry, dict)
    )
