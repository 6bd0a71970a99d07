"""What answers prompts, without torch: the values that go in and out, and the two methods of such a task.

    prepare(image)                      once for each image; kept in memory as long as there is room
    predict(prepared, clicks)           for each new prompt; yields coarse answers first if it likes, the final one last

Everything is on the stored image's grid: `ClickState.mask` is the current label map, each `Prediction` the new content
of a box of it. Between yields a task asks `current_progress().should_stop()` if it computes for long. Authors subclass
`interactive.InteractiveTask`, which also serves clients that know `/infer/` alone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.geometry import Grid
from labelserver.domain.interaction import LabelMap
from labelserver.domain.json_types import JsonObject
from labelserver.domain.prompts import Prompt, PromptKind
from labelserver.tasks.base import InferTask, numbered_labels


@dataclass(frozen=True, slots=True, eq=False)
class PromptedImage:
    """The image of a session: decoded once."""

    voxels: NDArray[np.generic]  #: (I, J, K), or (I, J, K, channels) for colour; the file's own dtype, read-only
    grid: Grid
    path: str = ""  #: of the file; for tasks that say `reads_path` there are no voxels


@dataclass(frozen=True, slots=True, eq=False)
class ClickState:
    """Where a session is when the task is asked."""

    prompts: tuple[Prompt, ...]  #: all in force, oldest first
    new: int  #: how many of them (at the end) came with this call
    mask: LabelMap  #: (I, J, K) current label map, read-only
    label_values: Mapping[str, int]  #: the task's labels
    params: JsonObject = field(default_factory=dict)

    def value_of(self, prompt: Prompt) -> int:
        """The voxel value that `prompt` is about; the first foreground label if it names none."""
        if prompt.label in self.label_values:
            return self.label_values[prompt.label]
        return next((value for value in self.label_values.values() if value > 0), 1)


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """New content of the box that begins at `lo` (it is clipped to the image by the caller)."""

    lo: tuple[int, int, int]
    values: LabelMap  #: (A, B, C)
    final: bool = True
    notes: JsonObject = field(default_factory=dict)


class PromptTask(InferTask):
    """A task for interactive sessions."""

    prompt_kinds: ClassVar[frozenset[PromptKind]] = frozenset({PromptKind.POINT})
    #: kinds taken although the task turns them into others, and how: shown to clients
    conversions: ClassVar[Mapping[PromptKind, str]] = {}
    #: of the images it takes; a picture is 2, a volume 3
    dimensions: ClassVar[frozenset[int]] = frozenset({2, 3})
    #: True: `prepare` opens the file itself, `PromptedImage.voxels` is empty
    reads_path: ClassVar[bool] = False

    def is_valid(self) -> bool:
        """Whether the task can run and is to be listed. Default: it can."""
        return True

    def prepare(self, image: PromptedImage) -> Any:
        """What `predict` needs of the image and no prompt changes: tensors, features. Default: the image itself.

        Kept for all sessions on this image, which share it: nobody writes into it.
        """
        return image

    @abstractmethod
    def predict(self, prepared: Any, clicks: ClickState) -> Iterator[Prediction]:
        """Answer the prompts. The last prediction is the answer; those before it are shown meanwhile."""

    def interactive_info(self) -> dict[str, Any]:
        """What ``/info/`` says under ``interactive``."""
        values = {name: value for name, value in numbered_labels(self.labels).items() if value > 0}
        return {
            "prompt_kinds": sorted(kind.value for kind in self.prompt_kinds),
            "conversions": {kind.value: text for kind, text in self.conversions.items()},
            "dimensions": sorted(self.dimensions),
            "label_values": values,
        }

    def info(self) -> dict[str, Any]:
        """With ``interactive``, beside what every task says."""
        return {**super().info(), "interactive": self.interactive_info()}


def painted(mask: LabelMap, lo: tuple[int, int, int], inside: NDArray[np.bool_], value: int) -> LabelMap:
    """`mask` in the box at `lo` after `value` became exactly `inside` there: other labels give way only to it."""
    box = tuple(slice(start, start + size) for start, size in zip(lo, inside.shape, strict=True))
    before = mask[box]
    result: LabelMap = np.where(before == value, np.uint8(0), before)
    result[inside] = value
    return result


def clipped(prediction: Prediction, shape: tuple[int, ...]) -> tuple[tuple[int, int, int], LabelMap]:
    """The part of a prediction that lies inside an image of `shape`: where it begins, and its values."""
    lo = [max(0, start) for start in prediction.lo]
    hi = [min(n, start + size) for start, size, n in zip(prediction.lo, prediction.values.shape, shape, strict=True)]
    cut = tuple(slice(a - s, max(a, b) - s) for a, b, s in zip(lo, hi, prediction.lo, strict=True))
    return (lo[0], lo[1], lo[2]), prediction.values[cut]
