"""Small parts of an inference call: its clock, its view of ``data``, and how options and centroids are read."""

from __future__ import annotations

import time
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from monai.data import MetaTensor

from labelserver.domain.errors import InvalidParams
from labelserver.domain.json_types import JsonObject


class NotingReads(dict[str, Any]):
    """A copy of ``data`` that notes whether one of its values was asked for."""

    def __init__(self, data: Mapping[str, Any], name: str) -> None:
        super().__init__(data)
        self._name = name
        self.was_read = False

    def __getitem__(self, name: str) -> Any:
        self.was_read = self.was_read or name == self._name
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.was_read = self.was_read or name == self._name
        return super().get(name, default)


class StageClock:
    """Seconds of each stage of one call."""

    def __init__(self) -> None:
        self._started = self._last = time.perf_counter()
        self.laps: dict[str, float] = dict.fromkeys(("pre", "infer", "invert", "post", "write"), 0.0)

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 4)
        self._last = now

    def total(self) -> float:
        return round(time.perf_counter() - self._started, 4)


def with_metadata(answer: Any, image: Any) -> Any:
    """A network's answer with the metadata of the image that it answers for, as if it had seen them.

    A MetaTensor carries them through every operation of a network, which costs more than some operations do; so the
    network is given plain numbers.
    """
    if not isinstance(image, MetaTensor) or isinstance(answer, MetaTensor):
        return answer
    if torch.is_tensor(answer):
        return MetaTensor(answer, meta=deepcopy(image.meta), applied_operations=deepcopy(image.applied_operations))
    if isinstance(answer, Mapping):
        return {name: with_metadata(part, image) for name, part in answer.items()}
    return [with_metadata(part, image) for part in answer] if isinstance(answer, list) else answer


def whole_numbers(values: Any, name: str) -> list[int]:
    """Positive whole numbers that a client sent. Raises `InvalidParams`."""
    try:
        return [int(value) for value in values]
    except (TypeError, ValueError) as error:
        raise InvalidParams(f"{name} must hold whole numbers, for example [96, 96, 96].") from error


def wire_centroids(found: Any) -> JsonObject:
    """``{"label_<id>": ["<id>", "<i>", "<j>", "<k>"]}`` as clients read it, from a dict or a list of dicts."""
    tables = [found] if isinstance(found, Mapping) else found or []
    return {str(name): [str(part) for part in values] for table in tables for name, values in table.items()}
