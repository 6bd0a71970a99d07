"""Tasks around other people's models that answer one object of a whole image at a time, from all of its prompts."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.prompts import Prompt
from labelserver.tasks.base import Labels
from labelserver.tasks.devices import name_to_device
from labelserver.tasks.interactive import InteractiveTask
from labelserver.tasks.optional_models import OptionalModel, click_task_options
from labelserver.tasks.patch_task import joined, signed_for, with_answer
from labelserver.tasks.prompting import ClickState, Prediction, painted
from labelserver.tasks.windows import bounds

Signed = Sequence[tuple[Prompt, bool]]  #: prompts, and whether each speaks for the object


class ObjectTask(OptionalModel, InteractiveTask):
    """Subclass, and write `prepare` and `object_of`."""

    def __init__(
        self,
        weights: str | Path | None,
        labels: Labels,
        *,
        licence_accepted: bool = False,
        description: str = "",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Describe the task.

        Args:
            weights: what the makers published, already on this machine.
            labels: names in order, or name -> value.
            licence_accepted: see `OptionalModel`.
            description: for people.
            config: options with their defaults.
        """
        InteractiveTask.__init__(self, **click_task_options(labels, description, config))
        OptionalModel.__init__(self, weights, licence_accepted=licence_accepted)
        self._lock = threading.Lock()

    def is_valid(self) -> bool:
        return self.problem() is None

    def info(self) -> dict[str, Any]:
        return {**super().info(), **self.licence_info()}

    @abstractmethod
    def object_of(
        self, prepared: Any, device: str, value: int, signed: Signed, new: int, before: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """The object after all of its prompts. One call at a time.

        Args:
            prepared: what `prepare` made of the image.
            device: to compute on.
            value: of the object in the mask.
            signed: its prompts in order; the last `new` of them came with this call.
            new: see `signed`.
            before: (I, J, K), the object in the mask now.

        Returns:
            (I, J, K).
        """

    def predict(self, prepared: Any, clicks: ClickState) -> Iterator[Prediction]:
        new = clicks.prompts[len(clicks.prompts) - clicks.new :] if clicks.new else clicks.prompts
        asked = list(dict.fromkeys(clicks.value_of(prompt) for prompt in new))
        device = name_to_device({**self.config(), **clicks.params}.get("device"))
        mask = clicks.mask
        done: list[Prediction] = []
        for number, value in enumerate(asked):
            signed, count = signed_for(value, clicks, len(new))
            before = mask == value
            with self._lock:
                inside = self.object_of(prepared, device, value, signed, count, before)
            box = bounds(inside | before) or ((0, 0, 0), (0, 0, 0))
            part = tuple(slice(a, b) for a, b in zip(*box, strict=True))
            values = painted(mask, box[0], inside[part], value)
            done.append(Prediction(box[0], values, number == len(asked) - 1))
            mask = with_answer(mask, done[-1]) if len(asked) > 1 else mask
            yield joined(mask, done) if len(asked) > 1 else done[-1]
