"""The description of an app whose task takes every prompt, for the fakes that paint balls; and what they paint."""

from __future__ import annotations

import numpy as np

from labelserver.domain.app_description import AppDescription
from tests.fakes.fake_engine import described
from tests.fakes.fake_sessions import RADIUS

KINDS = ["point", "scribble", "box", "lasso"]


def ball_app() -> AppDescription:
    """Models `ball` (all prompts, labels liver 1 and spleen 2), `points` (points alone) and `plain` (no prompts)."""
    base = {"type": "segmentation", "dimension": 3, "description": "", "config": {}}
    able = {"conversions": {}, "dimensions": [2, 3]}
    values = {"spleen": 2, "liver": 1}
    return described(
        {
            "models": {
                "ball": {
                    **base,
                    "labels": values,
                    "interactive": {**able, "prompt_kinds": KINDS, "label_values": values},
                },
                "points": {
                    **base,
                    "labels": {"liver": 1},
                    "license": "CC0-1.0",
                    "interactive": {**able, "prompt_kinds": ["point"], "label_values": {"liver": 1}},
                },
                "plain": {**base, "labels": values},
            }
        }
    )


def ball(shape: tuple[int, int, int], center: tuple[int, int, int]) -> np.ndarray:
    """What a positive point paints."""
    away = sum((axis - c) ** 2 for axis, c in zip(np.indices(shape), center, strict=True))
    return (away <= RADIUS**2).astype(np.uint8)
