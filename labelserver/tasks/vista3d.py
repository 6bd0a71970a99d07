"""VISTA-3D, a model for 127 structures in CT, from MONAI core: clicks in a window round them.

The network works on RAS+ axes, 1.5 mm voxels and windows of 128; here it is one more engine for `auto_zoom` that never
looks from farther away. Points go in as they are; a scribble, a lasso or a box as points spread over it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from monai.networks.nets.vista3d import vista3d132
from numpy.typing import NDArray

from labelserver.domain.geometry import Affine
from labelserver.domain.prompts import PromptKind
from labelserver.tasks.auto_zoom import View
from labelserver.tasks.base import Labels
from labelserver.tasks.devices import device_list, name_to_device
from labelserver.tasks.hints import Hint
from labelserver.tasks.network_cache import NetworkCache, WeightFile
from labelserver.tasks.optional_models import OptionalModel, WeightsLicence
from labelserver.tasks.patch_task import PatchTask, PreparedVolume
from labelserver.tasks.windows import Patch, to_ras

#: Hounsfield units that become 0 and 1: what the published weights were trained with.
INTENSITIES = (-963.8247715525971, 1053.678477684517)
SPACING_MM = 1.5
#: Class numbers above this are not known to the network: clicks alone say what is meant.
_LAST_SUPPORTED = 132
#: The point head takes at most 32 prompts at once; this many stand for a drawn region.
_POINTS_OF_A_REGION = 4
_MOST_POINTS = 32


@dataclass(frozen=True, slots=True, eq=False)
class Vista3dEngine:
    """Answers a view by the point head."""

    network: torch.nn.Module
    affine: Affine
    class_index: int
    roi: int = 128
    device: str = "cpu"
    max_zoom: float = 1.0
    max_tiles: int = 0
    looks_at_all: bool = False
    corrects_locally: bool = False

    def answer(self, view: View) -> Patch:
        """Probability of the object at each patch voxel; the mask before, if no prompt lies in the window."""
        points, labels = prompt_points(view.hints)
        if not len(points):
            return view.previous
        order, flips = to_ras(self.affine)
        low, high = INTENSITIES
        image = np.clip((view.image - low) / (high - low), 0, 1).astype(np.float32)
        turned = np.flip(image.transpose(order), flips).copy()
        placed = points[:, order]
        placed[:, flips] = np.asarray(turned.shape)[list(flips)] - 1 - placed[:, flips]
        with torch.inference_mode():
            scores = self.network(
                torch.from_numpy(turned)[None, None].to(self.device),
                point_coords=torch.from_numpy(placed)[None].to(self.device),
                point_labels=torch.from_numpy(labels)[None].to(self.device),
                prompt_class=torch.tensor([[self.class_index]], device=self.device),
            )
        found = torch.sigmoid(scores)[0, 0].float().cpu().numpy()
        back = np.flip(found, flips).transpose(np.argsort(order))
        return np.where(view.on_image, back, np.float32(0)).astype(np.float32)


def prompt_points(hints: Sequence[Hint]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(N, 3) patch indices and (N,) 1 or 0, the newest 32; an initial mask is no prompt of this network."""
    points: list[NDArray[np.int64]] = []
    labels: list[int] = []
    for hint in hints:
        if hint.kind is PromptKind.MASK:
            continue
        found = spread(hint)
        points += list(found)
        labels += [int(hint.positive)] * len(found)
    kept = slice(max(0, len(points) - _MOST_POINTS), None)
    return np.asarray(points[kept], dtype=np.int64).reshape(-1, 3), np.asarray(labels[kept], dtype=np.int64)


def spread(hint: Hint) -> NDArray[np.int64]:
    """Voxels that stand for a hint: itself, the middle of a box, or some along a drawn region."""
    voxels = np.argwhere(hint.region)
    if hint.kind is PromptKind.BOX:
        return voxels[[int(np.abs(voxels - voxels.mean(axis=0)).sum(axis=1).argmin())]]
    step = max(1, len(voxels) // _POINTS_OF_A_REGION)
    return voxels[step // 2 :: step]


class Vista3d(OptionalModel, PatchTask):
    """VISTA-3D: clicks for 127 structures in CT, and for others"""

    licence: ClassVar[WeightsLicence] = WeightsLicence(
        "NVIDIA OneWay Noncommercial / NVIDIA Open Model",
        "https://github.com/Project-MONAI/VISTA/tree/main/vista3d",
        "Its makers name two licences, one of them for research only: ask before commercial use.",
    )
    prompt_kinds: ClassVar[frozenset[PromptKind]] = frozenset(
        {PromptKind.POINT, PromptKind.SCRIBBLE, PromptKind.LASSO, PromptKind.BOX}
    )
    conversions: ClassVar[Mapping[PromptKind, str]] = {
        PromptKind.SCRIBBLE: "some of its voxels as points",
        PromptKind.LASSO: "some of its voxels as points",
        PromptKind.BOX: "a point in its middle",
    }
    dimensions: ClassVar[frozenset[int]] = frozenset({3})

    def __init__(
        self,
        weights: str | Path | None,
        labels: Labels,
        *,
        licence_accepted: bool = False,
        classes: Mapping[str, int] | None = None,
        network: torch.nn.Module | None = None,
        roi: int = 128,
        spacing_mm: float = SPACING_MM,
        description: str = "",
    ) -> None:
        """Describe the task.

        Args:
            weights: the published checkpoint, already on this machine.
            labels: names in order, or name -> value.
            licence_accepted: see `OptionalModel`.
            classes: label -> the network's class number, for structures that it knows.
            network: another configuration of it; default the published one (218 million parameters).
            roi: voxels a side of a window.
            spacing_mm: voxel size of a window.
            description: for people.
        """
        PatchTask.__init__(
            self, labels, description=description, config={"device": device_list()}, spacing_mm=spacing_mm
        )
        OptionalModel.__init__(self, weights, licence_accepted=licence_accepted)
        self._classes = dict(classes or {})
        self._network = network
        self._roi = roi
        self._networks = NetworkCache()

    def is_valid(self) -> bool:
        return self.problem() is None

    def get_path(self, validate: bool = True) -> str | None:
        return str(self.weights) if self.weights is not None and (self.weights.exists() or not validate) else None

    def info(self) -> dict[str, Any]:
        return {**super().info(), **self.licence_info()}

    def engine(self, prepared: PreparedVolume, params: Mapping[str, Any]) -> Vista3dEngine:
        weights = self.require()
        if self._network is None:
            self._network = vista3d132()
        device = name_to_device(params.get("device"))
        network = self._networks.get(device, self._network, WeightFile(weights))
        name = str(params.get("label") or next(iter(self._classes), ""))
        index = self._classes.get(name, _LAST_SUPPORTED + 1)
        return Vista3dEngine(network, prepared.grid.affine, index, self._roi, device)
