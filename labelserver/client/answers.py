"""What the server answers, as values. Each keeps the whole document as `raw`; a notebook shows it as a small table."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from labelserver.client.errors import AnswerUnclear
from labelserver.domain.json_types import JsonObject, JsonValue


def as_object(document: JsonValue) -> JsonObject:
    """`document` if it is a JSON object. Raises `AnswerUnclear`."""
    if not isinstance(document, dict):
        raise AnswerUnclear(f"The server answered {type(document).__name__} where an object was expected.")
    return document


def _table(document: JsonObject, key: str) -> JsonObject:
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _texts(value: JsonValue) -> tuple[str, ...]:
    return tuple(str(v) for v in value) if isinstance(value, list) else ()


def _integer(value: JsonValue, default: int = 0) -> int:
    return int(value) if isinstance(value, int | float) else default


def html_table(title: str, rows: Mapping[str, object]) -> str:
    """A small table for notebooks."""
    left = "style='text-align:left'"
    cells = "".join(
        f"<tr><th {left}>{html.escape(name)}</th><td {left}>{html.escape(str(value))}</td></tr>"
        for name, value in rows.items()
    )
    return f"<table><caption>{html.escape(title)}</caption>{cells}</table>"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """An infer model of the app. `labels`: name -> voxel value in its masks."""

    name: str
    type: str
    dimension: int
    description: str
    labels: dict[str, int]
    config: JsonObject

    @classmethod
    def from_json(cls, name: str, document: JsonObject) -> ModelInfo:
        labels = document.get("labels")
        if isinstance(labels, list):
            values = {str(label): number for number, label in enumerate(labels, start=1)}
        else:
            values = {label: _integer(value) for label, value in _table(document, "labels").items()}
        return cls(
            name=name,
            type=str(document.get("type", "")),
            dimension=_integer(document.get("dimension"), 3),
            description=str(document.get("description", "")),
            labels=values,
            config=_table(document, "config"),
        )


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """``GET /info/``."""

    name: str
    version: str
    labels: tuple[str, ...]
    models: dict[str, ModelInfo]
    trainers: tuple[str, ...]
    strategies: tuple[str, ...]
    scoring: tuple[str, ...]
    images: int
    labeled: int
    raw: JsonObject = field(repr=False)

    @classmethod
    def from_json(cls, document: JsonObject) -> ServerInfo:
        models = _table(document, "models")
        store = _table(document, "datastore")
        return cls(
            name=str(document.get("name", "")),
            version=str(document.get("version", "")),
            labels=_texts(document.get("labels")),
            models={name: ModelInfo.from_json(name, _table(models, name)) for name in models},
            trainers=tuple(_table(document, "trainers")),
            strategies=tuple(_table(document, "strategies")),
            scoring=tuple(_table(document, "scoring")),
            images=_integer(store.get("total")),
            labeled=_integer(store.get("completed")),
            raw=document,
        )

    def _repr_html_(self) -> str:
        return html_table(
            f"{self.name} {self.version}",
            {
                "models": ", ".join(self.models) or "none",
                "trainers": ", ".join(self.trainers) or "none",
                "strategies": ", ".join(self.strategies) or "none",
                "labels": ", ".join(self.labels) or "none",
                "images": f"{self.labeled} of {self.images} labeled",
            },
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """The image that a strategy chose. `path` is its place on the server."""

    id: str
    name: str
    path: str
    raw: JsonObject = field(repr=False)

    @classmethod
    def from_json(cls, document: JsonObject) -> Sample:
        return cls(str(document.get("id", "")), str(document.get("name", "")), str(document.get("path", "")), document)


@dataclass(frozen=True, slots=True)
class Upload:
    """An image kept by the server for one-off inference (``/session/``)."""

    session_id: str
    name: str
    expiry_s: int
    raw: JsonObject = field(repr=False)

    @classmethod
    def from_json(cls, session_id: str, document: JsonObject) -> Upload:
        return cls(session_id, str(document.get("name", "")), _integer(document.get("expiry")), document)


@dataclass(frozen=True, slots=True)
class InferResult:
    """An inference. `mask` is a file on this machine, None if the model writes none."""

    params: JsonObject
    mask: Path | None

    @property
    def label_names(self) -> dict[str, int]:
        """Name -> voxel value in the mask."""
        return {name: _integer(value) for name, value in _table(self.params, "label_names").items()}

    def _repr_html_(self) -> str:
        latencies = _table(self.params, "latencies")
        return html_table(
            "inference",
            {
                "mask": self.mask.name if self.mask else "none",
                "labels": ", ".join(f"{name} = {value}" for name, value in self.label_names.items()),
                "seconds": latencies.get("total", ""),
            },
        )
