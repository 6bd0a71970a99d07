"""What the app's description says about a task that answers prompts: the key ``interactive`` of a model in ``/info/``.

The worker writes it (`tasks.interactive.described`): prompt kinds, conversions, dimensions, label values.
"""

from __future__ import annotations

from dataclasses import dataclass

from labelserver.domain.app_description import AppDescription
from labelserver.domain.errors import Refused, TaskNotFound
from labelserver.domain.geometry import Grid
from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.domain.prompts import PromptKind

KEY = "interactive"


@dataclass(frozen=True, slots=True)
class DescribedTask:
    """A task that takes prompts, as the app described it."""

    name: str
    label_values: dict[str, int]
    prompt_kinds: frozenset[PromptKind]
    conversions: dict[str, str]
    dimensions: frozenset[int]

    def check_grid(self, grid: Grid) -> None:
        """Raises `Refused` if the task takes no images of this dimension."""
        dimension = 2 if grid.shape[2] == 1 else 3
        if self.dimensions and dimension not in self.dimensions:
            takes = " and ".join(f"{number}-D" for number in sorted(self.dimensions))
            raise Refused(f"The model {self.name!r} takes {takes} images; this one has the shape {list(grid.shape)}.")


def described_task(description: AppDescription | None, name: str) -> DescribedTask | None:
    """The task `name`; None while the app has never been described.

    Raises:
        TaskNotFound: no such model, or it takes no prompts; with the names of those that do.
    """
    if description is None:
        return None
    models = _table(description.info.get("models"))
    interactive = _table(_table(models.get(name)).get(KEY))
    if not interactive:
        able = sorted(key for key, model in models.items() if _table(_table(model).get(KEY)))
        what = "takes no prompts" if name in models else "is not there"
        raise TaskNotFound(f"The model {name[:100]!r} {what}. Models that take prompts: {', '.join(able) or 'none'}.")
    return DescribedTask(
        name=name,
        label_values={k: v for k, v in _table(interactive.get("label_values")).items() if isinstance(v, int) and v > 0},
        prompt_kinds=frozenset(_kinds(interactive.get("prompt_kinds"))),
        conversions={str(k): str(v) for k, v in _table(interactive.get("conversions")).items()},
        dimensions=frozenset(n for n in _list(interactive.get("dimensions")) if isinstance(n, int)),
    )


def _kinds(value: JsonValue) -> list[PromptKind]:
    known = {kind.value: kind for kind in PromptKind}
    return [known[str(text)] for text in _list(value) if str(text) in known]


def _table(value: JsonValue) -> JsonObject:
    return dict(value) if isinstance(value, dict) else {}


def _list(value: JsonValue) -> list[JsonValue]:
    return list(value) if isinstance(value, list) else []
