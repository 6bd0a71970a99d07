"""The app's own description, made fit for every client that reads ``/info/`` (R-08 to R-13, R-43).

What clients cannot bear is repaired here and nowhere else: nulls, label ids with gaps, lists of mixed values, a
top-level ``config``. The keys an app adds stay.
"""

from __future__ import annotations

from collections.abc import Mapping

from labelserver.api.answers import finite
from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.domain.schema import BACKGROUND, names_in_order

DEFAULT_NAME = "labelserver"
DEFAULT_DIMENSION = 3
DEFAULT_TYPE = "others"


def contiguous(labels: JsonValue) -> JsonObject:
    """Labels as name -> id with ids 1..N in the order of the ids given; background, where named, is 0.

    Args:
        labels: name -> id, or a list of names (counted from 1).
    """
    names = names_in_order(labels)
    result: JsonObject = {}
    for name in names:
        result[name] = 0 if name == BACKGROUND else 1 + sum(1 for other in result if other != BACKGROUND)
    return result


def wire_info(info: JsonObject) -> JsonObject:
    """The static part of ``/info/``: name, labels, models, trainers, strategies, scoring, and what the app adds."""
    models = {name: _model(_object(model)) for name, model in _object(info.get("models")).items()}
    labels = names_in_order(info.get("labels"))
    for model in models.values():
        labels.extend(n for n in _object(model["labels"]) if n not in labels and n != BACKGROUND)
    document: JsonObject = {
        "name": _text(info.get("name"), DEFAULT_NAME),
        "description": _text(info.get("description"), ""),
        "version": _text(info.get("version"), ""),
        "labels": labels,
        "models": models,
        "trainers": {name: _trainer(_object(t)) for name, t in _object(info.get("trainers")).items()},
        "strategies": _described(info.get("strategies")),
        "scoring": _described(info.get("scoring")),
    }
    extra = {k: _clean(v) for k, v in info.items() if k not in document and k != "config" and v is not None}
    return {**document, **extra}


def _model(model: JsonObject) -> JsonObject:
    dimension = model.get("dimension")
    document = {key: _clean(value) for key, value in model.items() if value is not None}
    document.update(
        type=_text(model.get("type"), DEFAULT_TYPE).lower(),
        labels=contiguous(model.get("labels")),
        dimension=int(dimension) if isinstance(dimension, int | float) else DEFAULT_DIMENSION,
        description=_text(model.get("description"), ""),
        config=wire_config(model.get("config")),
    )
    return document


def _trainer(trainer: JsonObject) -> JsonObject:
    document = {key: _clean(value) for key, value in trainer.items() if value is not None}
    document["description"] = _text(trainer.get("description"), "")
    document["config"] = wire_config(trainer.get("config"))
    if "labels" in document:
        document["labels"] = contiguous(trainer.get("labels"))
    return document


def wire_config(config: JsonValue) -> JsonObject:
    """Options as clients show them: lists of texts, scalars, objects; nothing null (R-10)."""
    result: JsonObject = {}
    for key, value in _object(config).items():
        if isinstance(value, list | tuple):
            result[key] = [_as_text(item) for item in value if item is not None]
        elif value is not None:
            result[key] = _clean(value)
    return result


def _described(tasks: JsonValue) -> JsonObject:
    return {
        name: {**_object(_clean(task)), "description": _text(_object(task).get("description"), "")}
        for name, task in _object(tasks).items()
    }


def _clean(value: JsonValue) -> JsonValue:
    """Without nulls and non-finite numbers, at any depth."""
    if isinstance(value, Mapping):
        return {str(key): _clean(item) for key, item in value.items() if finite(item) is not None}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value if finite(item) is not None]
    cleaned: JsonValue = finite(value)
    return "" if cleaned is None else cleaned


def _object(value: JsonValue) -> JsonObject:
    return dict(value) if isinstance(value, Mapping) else {}


def _text(value: JsonValue, default: str) -> str:
    return default if value is None else str(value)


def _as_text(value: JsonValue) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
