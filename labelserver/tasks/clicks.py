"""Transforms for models of one label that are guided by clicks: MONAI's own, by the argument names that apps use.

MONAI's ``deepgrow`` package has them with ``image=`` and one intensity channel; here a key comes first, and there are
three. Clicks are voxel indices of the stored image in its own axis order.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.apps.deepgrow import interaction, transforms
from monai.config import KeysCollection
from monai.handlers import TensorBoardImageHandler
from monai.transforms import Transform
from monai.utils import CommonKeys, ensure_tuple


def _first(keys: KeysCollection) -> Any:
    return ensure_tuple(keys)[0]


class AddInitialSeedPointd(transforms.AddInitialSeedPointd):
    """A first click inside the label, chosen at random."""

    def __init__(self, keys: KeysCollection = "guidance", label: str = "label", connected_regions: int = 5) -> None:
        super().__init__(label=label, guidance=_first(keys), connected_regions=connected_regions)


class AddGuidanceSignald(transforms.AddGuidanceSignald):
    """Two more channels on the image: a bump at each foreground click, and at each background click."""

    def __init__(
        self, keys: KeysCollection = "image", guidance: str = "guidance", sigma: int = 2, number_intensity_ch: int = 3
    ) -> None:
        super().__init__(image=_first(keys), guidance=guidance, sigma=sigma, number_intensity_ch=number_intensity_ch)


class AddClickGuidanced(Transform):
    """Clicks of a request, ``foreground`` and ``background``, as ``data[guidance]`` of shape (2, n, axes).

    The shorter list is filled up with -1, which stands for no click.
    """

    def __init__(self, keys: KeysCollection = ("foreground", "background"), guidance: str = "guidance") -> None:
        self.keys = ensure_tuple(keys)
        self.guidance = guidance

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        names = self.keys if len(self.keys) == 2 else ("foreground", "background")
        clicks = [[list(point) for point in result.get(name) or []] for name in names]
        axes = next((len(point) for points in clicks for point in points), 2)
        longest = max(len(points) for points in clicks)
        filled = [points + [[-1] * axes] * (longest - len(points)) for points in clicks]
        result[self.guidance] = np.asarray(filled, dtype=np.int32).reshape(2, longest, axes)
        return result


class Interaction(interaction.Interaction):
    """Clicks simulated while training, with probability `deepgrow_probability`; otherwise the click channels are 0."""

    def __init__(
        self,
        deepgrow_probability: float,
        transforms: Sequence[Callable[..., Any]] | Callable[..., Any],
        train: bool,
        click_probability_key: str = "probability",
        max_interactions: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(
            transforms=transforms, max_interactions=max_interactions, train=train, key_probability=click_probability_key
        )
        self.deepgrow_probability = deepgrow_probability
        self._random = np.random.default_rng(seed)

    def __call__(self, engine: Any, batchdata: Any) -> Any:
        if self._random.random() < self.deepgrow_probability:
            return super().__call__(engine, batchdata)
        batchdata[CommonKeys.IMAGE][:, -2:] = 0
        return engine._iteration(engine, batchdata)


class TensorBoard2DImageHandler(TensorBoardImageHandler):
    """MONAI's handler for pictures, by the arguments that apps use."""

    def __init__(
        self,
        summary_writer: Any = None,
        log_dir: str = "./runs",
        tag_prefix: str = "",
        interval: int = 1,
        batch_transform: Callable[..., Any] = lambda x: x,
        output_transform: Callable[..., Any] = lambda x: x,
        batch_limit: int = 1,
        device: Any = None,
    ) -> None:
        super().__init__(
            summary_writer=summary_writer,
            log_dir=log_dir,
            interval=interval,
            batch_transform=batch_transform,
            output_transform=output_transform,
        )
        self.tag_prefix = tag_prefix
        self.batch_limit = batch_limit
        self.device = device
