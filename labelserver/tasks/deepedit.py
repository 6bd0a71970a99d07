"""DeepEdit: one network that segments automatically and takes clicks for each label, on MONAI's transforms.

The whole image is resized to a fixed size; each label, background included, has a channel with its clicks (Diaz-Pinto
et al. 2022, https://arxiv.org/abs/2203.12362). In training MONAI's `Interaction` simulates clicks in half of the steps
and leaves the click channels empty in the others, so that the network learns both.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.apps.deepedit.interaction import Interaction
from monai.apps.deepedit.transforms import (
    AddGuidanceFromPointsDeepEditd,
    AddGuidanceSignalDeepEditd,
    AddInitialSeedPointMissingLabelsd,
    AddRandomGuidanceDeepEditd,
    FindAllValidSlicesMissingLabelsd,
    FindDiscrepancyRegionsDeepEditd,
    ResizeGuidanceMultipleLabelDeepEditd,
)
from monai.inferers import Inferer, SimpleInferer
from monai.losses import DiceCELoss
from monai.networks.nets import DynUNet
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    EnsureTyped,
    MapTransform,
    Resized,
    ScaleIntensityRanged,
    SelectItemsd,
    SqueezeDimd,
    ToNumpyd,
    ToTensord,
)

from labelserver.domain.schema import channels_of_values
from labelserver.tasks import train_request as asked
from labelserver.tasks.base import InferType, Labels, numbered_labels
from labelserver.tasks.infer import BasicInferTask
from labelserver.tasks.segmentation_train import OnlyKnownLabelsd
from labelserver.tasks.train import BasicTrainTask, Context
from labelserver.tasks.transform_runs import Transforms
from labelserver.tasks.transforms import LoadVolumed, Restored

_BOTH = ("image", "label")
_INTENSITIES = (-175.0, 250.0)


def deepedit_labels(labels: Labels) -> dict[str, int]:
    """Name -> channel, 1 to N in order, then ``background`` 0: the order of the click channels."""
    ordered = sorted(numbered_labels(labels).items(), key=lambda item: item[1])
    names = [name for name, value in ordered if value > 0]
    return {**{name: channel for channel, name in enumerate(names, start=1)}, "background": 0}


def deepedit_network(labels: Labels, filters: Sequence[int] = (16, 32, 64, 128)) -> torch.nn.Module:
    """A DynUNet for these labels; it always starts from the same weights."""
    channels = len(deepedit_labels(labels))
    depth = len(filters)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: torch.nn.Module = DynUNet(
            spatial_dims=3,
            in_channels=1 + channels,
            out_channels=channels,
            kernel_size=[3] * depth,
            strides=[1, *[2] * (depth - 1)],
            upsample_kernel_size=[2] * (depth - 1),
            filters=list(filters),
            norm_name="instance",
            res_block=True,
        )
    return network


class DeepEdit(BasicInferTask):
    """DeepEdit: automatic segmentation that clicks for each label correct"""

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        network: torch.nn.Module | None,
        labels: Labels,
        *,
        spatial_size: Sequence[int] = (128, 128, 64),
        intensity_window: tuple[float, float] = _INTENSITIES,
        description: str = "",
        type: str = InferType.DEEPEDIT,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Describe what the network was trained on; `DeepEditTrain` takes the same values.

        Args:
            path: weight file or files; the last existing one is in use.
            network: template, as `deepedit_network` makes it.
            labels: names in order, or name -> value, of which the order counts.
            spatial_size: voxels that every image is resized to.
            intensity_window: intensities that become 0 and 1.
            description: for people.
            type: ``deepedit``, or ``segmentation`` to take no clicks.
            config: options with their defaults.
        """
        self._channels = deepedit_labels(labels)
        super().__init__(
            path=path,
            network=network,
            type=type,
            labels={name: value for name, value in self._channels.items() if value > 0},
            dimension=3,
            description=description,
            config=config,
        )
        self.spatial_size = tuple(int(size) for size in spatial_size)
        self.intensity_window = intensity_window

    def pre_transforms(self, data: dict[str, Any] | None = None) -> Transforms:
        low, high = self.intensity_window
        clicks = self.type == InferType.DEEPEDIT
        if data is not None and not clicks:
            data.update({name: [] for name in self._channels})
        return [
            LoadVolumed(keys="image"),
            ScaleIntensityRanged(keys="image", a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True),
            AddGuidanceFromPointsDeepEditd(ref_image="image", guidance="guidance", label_names=self._channels),
            Resized(keys="image", spatial_size=self.spatial_size, mode="area"),
            ResizeGuidanceMultipleLabelDeepEditd(guidance="guidance", ref_image="image"),
            AddGuidanceSignalDeepEditd(keys="image", guidance="guidance", number_intensity_ch=1),
            EnsureTyped(keys="image", dtype=torch.float32),
        ]

    def inferer(self, data: dict[str, Any] | None = None) -> Inferer:
        return SimpleInferer()

    def post_transforms(self, data: dict[str, Any] | None = None) -> Transforms:
        return [
            AsDiscreted(keys="pred", argmax=True),
            SqueezeDimd(keys="pred", dim=0),
            ToNumpyd(keys="pred"),
            Restored(keys="pred", ref_image="image", has_channel=False),
        ]


class NameLabelsd(MapTransform):
    """Tells MONAI's click transforms which labels there are."""

    def __init__(self, keys: Any, names: Mapping[str, int]) -> None:
        super().__init__(keys)
        self._names = dict(names)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {**data, "label_names": dict(self._names)}


class AddFoundClicksd(AddRandomGuidanceDeepEditd):
    """MONAI's simulated clicks, without the empty ones that it notes where a mistake has no inner voxel."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        found = dict(super().__call__({**data, self.guidance_key: _existing(data[self.guidance_key])}))
        found[self.guidance_key] = _existing(found[self.guidance_key])
        return found


def _existing(clicks: Mapping[str, Any]) -> dict[str, Any]:
    """By label; a label where none was found may have None in the place of its list."""
    return {name: _points(listed) for name, listed in clicks.items()}


def _points(listed: Any) -> Any:
    if listed is None:
        return []
    return [point for point in listed if point is not None] if isinstance(listed, list) else listed


class DeepEditTrain(BasicTrainTask):
    """Training of DeepEdit with simulated clicks"""

    reads_stored_values = True

    def __init__(
        self,
        model_dir: str | Path,
        network: torch.nn.Module,
        labels: Labels,
        *,
        spatial_size: Sequence[int] = (128, 128, 64),
        intensity_window: tuple[float, float] = _INTENSITIES,
        load_path: str | Sequence[str] | None = None,
        publish_path: str | None = None,
        description: str = "",
        config: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Describe what the network learns; `DeepEdit` takes the same values.

        The options that this class adds to the request, with defaults: ``learning_rate`` 0.001; ``max_clicks`` 4,
        simulated in a step that has clicks, half of all.

        Args:
            model_dir: folder of the run folders, below the app.
            network: as `deepedit_network` makes it.
            labels: names in order, or name -> value.
            spatial_size: voxels that every image is resized to.
            intensity_window: intensities that become 0 and 1.
            load_path: weights to start from.
            publish_path: the file that infer tasks read.
            description: for people.
            config: options with their defaults.
            options: further arguments of `BasicTrainTask`.
        """
        self._channels = deepedit_labels(labels)
        super().__init__(
            model_dir,
            description=description or None,
            config={"learning_rate": 1e-3, "max_clicks": 4, **(config or {})},
            load_path=load_path,
            publish_path=publish_path,
            labels={name: value for name, value in self._channels.items() if value > 0},
            network=network,
            **options,
        )
        self.spatial_size = tuple(int(size) for size in spatial_size)
        self.intensity_window = intensity_window

    def optimizer(self, context: Context) -> torch.optim.Optimizer:
        rate = asked.positive(context.request, "learning_rate", 1e-3)
        return torch.optim.AdamW(context.network.parameters(), lr=rate, weight_decay=1e-5)

    def loss_function(self, context: Context) -> Callable[..., Any]:
        loss: Callable[..., Any] = DiceCELoss(to_onehot_y=True, softmax=True)
        return loss

    def train_pre_transforms(self, context: Context) -> Transforms:
        names = [name for name, value in self._channels.items() if value > 0]
        low, high = self.intensity_window
        return [
            LoadVolumed(keys=_BOTH),
            OnlyKnownLabelsd(
                keys="label", largest=len(names), channels=channels_of_values(names, context.label_values)
            ),
            ScaleIntensityRanged(keys="image", a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True),
            Resized(keys=_BOTH, spatial_size=self.spatial_size, mode=("area", "nearest")),
            NameLabelsd("label", self._channels),
            FindAllValidSlicesMissingLabelsd(keys="label", sids="sids"),
            AddInitialSeedPointMissingLabelsd(keys="label", guidance="guidance", sids="sids"),
            AddGuidanceSignalDeepEditd(keys="image", guidance="guidance", number_intensity_ch=1),
            EnsureTyped(keys=_BOTH, dtype=torch.float32),
            SelectItemsd(keys=("image", "label", "guidance", "label_names")),
        ]

    def train_iteration_update(self, context: Context) -> Callable[..., Any] | None:
        step: Callable[..., Any] = self._interaction(context, train=True)
        return step

    def val_iteration_update(self, context: Context) -> Callable[..., Any] | None:
        step: Callable[..., Any] = self._interaction(context, train=False)
        return step

    def _interaction(self, context: Context, *, train: bool) -> Any:
        """Clicks in half of the training steps; held-out cases are judged without any, as an automatic answer."""
        return Interaction(
            deepgrow_probability=0.5 if train else 0.0,
            transforms=[
                Activationsd(keys="pred", softmax=True),
                AsDiscreted(keys="pred", argmax=True),
                ToNumpyd(keys=("image", "label", "pred")),
                FindDiscrepancyRegionsDeepEditd(keys="label", pred="pred", discrepancy="discrepancy"),
                AddFoundClicksd(keys="NA", guidance="guidance", discrepancy="discrepancy", probability="probability"),
                AddGuidanceSignalDeepEditd(keys="image", guidance="guidance", number_intensity_ch=1),
                ToTensord(keys=_BOTH),
            ],
            train=train,
            label_names=self._channels,
            max_interactions=asked.whole_number(context.request, "max_clicks", 4, least=1),
        )
