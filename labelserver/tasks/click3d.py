"""From a click to a mask with a small network that sees prompts as channels: what a project trains for itself.

One forward pass on a window of constant shape, turned to RAS+ axes, answers a click; objects that are larger are looked
at from farther away first and sharpened then (`auto_zoom`). Until a version is trained, the random walker of `seeds`
answers the same prompts, and the answer's notes say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from monai.networks.nets import UNet

from labelserver.domain.errors import DeviceMemoryFull
from labelserver.domain.geometry import Affine
from labelserver.tasks.auto_zoom import PatchEngine, View
from labelserver.tasks.base import Labels
from labelserver.tasks.click_channels import CHANNELS, Channels, drawn, scaled
from labelserver.tasks.devices import device_list, name_to_device
from labelserver.tasks.hints import Hint
from labelserver.tasks.network_cache import NetworkCache, WeightFile
from labelserver.tasks.patch_task import PatchTask, PreparedVolume, as_intensities
from labelserver.tasks.prompting import ClickState, Prediction, PromptedImage
from labelserver.tasks.seeds import SeedsEngine
from labelserver.tasks.windows import Patch, to_ras

#: Makes a network's channels of an image in -1 to 1, the mask so far, and prompts.
Draw = Callable[[Patch, Patch, Sequence[Hint]], Channels]

#: A flat patch is repeated so often, because the network halves each axis three times.
_FLAT_COPIES = 8
#: Share of an image's voxels that may be darker or brighter than its range.
_TAILS = (0.5, 99.5)
_MOST_VOXELS_FOR_RANGE = 500_000


def click_network(channels: Sequence[int] = (16, 32, 64, 96)) -> torch.nn.Module:
    """From (B, 9, ...) channels to (B, 1, ...) scores; it always starts from the same weights.

    The first convolution halves the resolution already: most of the work is done on an eighth of the voxels.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: torch.nn.Module = UNet(
            spatial_dims=3,
            in_channels=len(CHANNELS),
            out_channels=1,
            channels=tuple(channels),
            strides=(2,) * (len(channels) - 1),
            num_res_units=1,
            norm="INSTANCE",
        )
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # torch types leave 5-D out
    return network


def intensity_range(voxels: Any, window: tuple[float, float] | None) -> tuple[float, float]:
    """What becomes -1 and 1: the given window, else the range of nearly all voxels of this image."""
    if window is not None:
        return float(window[0]), float(window[1])
    flat = np.asarray(voxels).reshape(-1)
    some = flat[:: max(1, flat.size // _MOST_VOXELS_FOR_RANGE)]
    low, high = np.percentile(some, _TAILS)
    return (float(low), float(high)) if high > low else (float(low), float(low) + 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class RangedVolume(PreparedVolume):
    """With what becomes -1 and 1."""

    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class ClickEngine:
    """Answers a view by one forward pass."""

    network: torch.nn.Module
    roi: int
    low: float
    high: float
    affine: Affine
    device: str = "cpu"
    max_zoom: float = 4.0
    max_tiles: int = 8
    looks_at_all: bool = False
    corrects_locally: bool = True
    draw: Draw = drawn
    copies: int = _FLAT_COPIES  #: of a flat patch; 0: the network is 2-D

    def answer(self, view: View) -> Patch:
        """Probability of the object at each patch voxel."""
        channels = self.draw(scaled(view.image, self.low, self.high), view.previous, view.hints)
        flat = [axis for axis, size in enumerate(view.image.shape) if size == 1]
        for axis in flat if self.copies else ():
            channels = np.repeat(channels, self.copies, axis=axis + 1)
        order, flips = to_ras(self.affine)
        turned = np.flip(channels.transpose(0, *(axis + 1 for axis in order)), tuple(axis + 1 for axis in flips))
        inputs = torch.from_numpy(np.ascontiguousarray(turned))[None].to(self.device)
        found = self._probability(inputs)
        found = np.flip(found, flips).transpose(np.argsort(order))
        for axis in flat if self.copies else ():
            found = found.take([self.copies // 2], axis=axis)
        return np.where(view.on_image, found, np.float32(0))

    def _probability(self, inputs: torch.Tensor) -> Patch:
        """(A, B, C) for (1, channels, A, B, C); a 2-D network gets the inputs without their flat axis."""
        with torch.inference_mode():
            if self.copies:
                scores = self.network(inputs.to(memory_format=torch.channels_last_3d))
            else:
                axis = 2 + list(inputs.shape[2:]).index(1)
                scores = self.network(inputs.squeeze(axis)).unsqueeze(axis)
        found: Patch = torch.sigmoid(scores)[0, 0].float().cpu().numpy()
        return found


class Click3d(PatchTask):
    """Clicks, scribbles, boxes and lassos to a mask, with a network that learns from the project's own labels"""

    #: how prompts become channels; `Click3dTrain.draw` must be the same
    draw: ClassVar[Draw] = staticmethod(drawn)

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        network: torch.nn.Module,
        labels: Labels,
        *,
        roi: int = 48,
        intensity_window: tuple[float, float] | None = None,
        spacing_mm: float | None = None,
        description: str = "",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Describe what the network was trained on; `Click3dTrain` takes the same values.

        Args:
            path: weight file or files; the last existing one is in use.
            network: template, as `click_network` makes it.
            labels: names in order, or name -> value. Any object can be clicked under any name.
            roi: voxels a side of a window, a multiple of 8, at most 64.
            intensity_window: intensities that become -1 and 1 (Hounsfield units for CT); None: the image's own range.
            spacing_mm: voxel size of the closest window; None: the image's finest.
            description: for people.
            config: options with their defaults.

        Raises:
            ValueError: a window that the network cannot halve three times, or a larger one.
        """
        if roi % 8 or not 8 <= roi <= 64:
            raise ValueError("roi must be a multiple of 8 from 8 to 64")
        super().__init__(
            labels, description=description, config={"device": device_list(), **(config or {})}, spacing_mm=spacing_mm
        )
        self.path = path
        self.network = network
        self.roi = roi
        self.intensity_window = intensity_window
        self._networks = NetworkCache()

    def is_valid(self) -> bool:
        return True

    def get_path(self, validate: bool = True) -> str | None:
        """The last weight file that exists; without `validate` simply the last one."""
        several = [self.path] if isinstance(self.path, str | Path) else list(self.path)
        found = [str(path) for path in several if path and (not validate or Path(path).exists())]
        return found[-1] if found else None

    def clear(self) -> None:
        """Forget loaded networks."""
        self._networks.clear()

    def prepare(self, image: PromptedImage) -> RangedVolume:
        plain = as_intensities(image)
        low, high = intensity_range(plain.voxels, self.intensity_window)
        return RangedVolume(plain.voxels, plain.grid, low, high)

    def engine(self, prepared: RangedVolume, params: Mapping[str, Any]) -> PatchEngine:
        """The trained network; `SeedsEngine` until there is one."""
        weights = self.get_path()
        if weights is None:
            return SeedsEngine()
        device = name_to_device(params.get("device"))
        network = self._networks.get(device, self.network, WeightFile(Path(weights)))
        return ClickEngine(
            network, self.roi, prepared.low, prepared.high, prepared.grid.affine, device, draw=type(self).draw
        )

    def predict(self, prepared: Any, clicks: ClickState) -> Iterator[Prediction]:
        """See `PatchTask`. Raises `DeviceMemoryFull`."""
        try:
            for found in super().predict(prepared, clicks):
                if self.get_path() is None:
                    found.notes["engine"] = "seeds: no version is trained yet"
                yield found
        except torch.OutOfMemoryError as error:
            self.clear()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            raise DeviceMemoryFull("The device ran out of memory for this click. Choose device=cpu.") from error
