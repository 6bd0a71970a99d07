"""Training of a 3-D segmentation network on patches: the ready-made counterpart of `SegmentationInfer`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.handlers import LrScheduleHandler
from monai.inferers import Inferer, SlidingWindowInferer
from monai.losses import DiceCELoss
from monai.transforms import (
    ClassesToIndicesd,
    EnsureTyped,
    MapTransform,
    Orientationd,
    RandCropByLabelClassesd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    ScaleIntensityRanged,
    SelectItemsd,
    Spacingd,
    SpatialPadd,
)

from labelserver.domain.schema import NOT_ANNOTATED, channels_of_values
from labelserver.tasks import train_metrics as metrics
from labelserver.tasks import train_request as asked
from labelserver.tasks.base import Labels, numbered_labels
from labelserver.tasks.segmentation import AXES
from labelserver.tasks.train import BasicTrainTask, Context, Transforms
from labelserver.tasks.train_labels import ANNOTATED, is_partly_annotated
from labelserver.tasks.train_losses import PartlyAnnotatedDiceCE
from labelserver.tasks.transforms import LoadAnnotatedd, LoadVolumed

_BOTH = ("image", "label")

#: Voxels remembered per label to draw patch centres from; more would only cost memory.
_CENTRES_PER_LABEL = 5000


class OnlyKnownLabelsd(MapTransform):
    """Voxel values become the channels of the known labels, all others background.

    So a richer label file can be trained on, and one whose schema numbers the labels otherwise than the network does.
    """

    leaves_other_keys = True

    def __init__(
        self, keys: Any, largest: int, channels: Mapping[int, int] | None = None, *, keep_unknown: bool = False
    ) -> None:
        """Args:
        keys: of the label.
        largest: number of labels.
        channels: value in the file -> channel, 1 to `largest`; without it they are the same.
        keep_unknown: 255 means "not annotated" and stays.
        """
        super().__init__(keys)
        self._largest = largest
        self._keep_unknown = keep_unknown
        same = {value: value for value in range(1, largest + 1)}
        self._channels = None if channels is None or dict(channels) == same else dict(channels)

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        found = dict(data)
        for key in self.key_iterator(found):
            value = found[key]
            unknown = value == NOT_ANNOTATED if self._keep_unknown else None
            if self._channels is None:
                value[(value < 0) | (value > self._largest)] = 0
                if unknown is not None:
                    value[unknown] = NOT_ANNOTATED
                continue
            stored = value * 1  # a copy with the metadata, of an array or a tensor
            value[...] = 0
            for number, channel in self._channels.items():
                value[stored == number] = channel
            if unknown is not None:
                value[unknown] = NOT_ANNOTATED
        return found


class SegmentationTrain(BasicTrainTask):
    """Training of a segmentation network on patches"""

    reads_stored_values = True

    def __init__(
        self,
        model_dir: str | Path,
        network: torch.nn.Module,
        labels: Labels,
        *,
        spacing_mm: Sequence[float],
        roi_size: Sequence[int],
        intensity_window: tuple[float, float] = (-175.0, 250.0),
        load_path: str | Sequence[str] | None = None,
        publish_path: str | None = None,
        description: str = "",
        config: Mapping[str, Any] | None = None,
        orientation: str = "RAS",
        **options: Any,
    ) -> None:
        """Describe what the network learns; `SegmentationInfer` takes the same values.

        A label file holds the values of the project's schema, which become 1..N in the order of the labels by their
        names; without a schema it holds 1..N. Other values count as background. Patches are drawn so that
        every label, and background, is in the middle equally often. Images are never mirrored: left and right organs
        are different labels. What nobody annotated, in space or of the labels, is neither learned nor measured. The
        options that this class adds to the request, with defaults:

        - ``learning_rate`` 0.004, falling along a cosine to nearly 0 at the last epoch;
        - ``patches_per_case`` 4: of one image, together one step's batch (times ``train_batch_size``);
        - ``steps_per_epoch`` 20: an epoch visits the cases again until it has at least so many steps;
        - ``max_epochs`` 20.

        Args:
            model_dir: folder of the run folders, below the app.
            network: from (B, 1, ...) to (B, 1 + number of labels, ...); channel 0 is background.
            labels: names in order, or name -> value, of which the order counts.
            spacing_mm: voxel size that the network works on, along the axes of `orientation`.
            roi_size: voxels of a patch, and of one window in validation.
            intensity_window: intensities that become 0 and 1; beyond them is clipped.
            load_path: weights to start from.
            publish_path: the file that infer tasks read.
            description: for people.
            config: options with their defaults.
            orientation: axes that the network works in.
            options: further arguments of `BasicTrainTask`.
        """
        ordered = sorted(numbered_labels(labels).items(), key=lambda item: item[1])
        names = [name for name, value in ordered if value > 0]
        defaults = {"max_epochs": 20, "learning_rate": 4e-3, "patches_per_case": 4, "steps_per_epoch": 20}
        super().__init__(
            model_dir,
            description=description or None,
            config={**defaults, **(config or {})},
            load_path=load_path,
            publish_path=publish_path,
            labels={name: value for value, name in enumerate(names, start=1)},
            network=network,
            **options,
        )
        self._names = names
        self.spacing_mm = tuple(float(value) for value in spacing_mm)
        self.roi_size = tuple(int(size) for size in roi_size)
        self.intensity_window = intensity_window
        self.orientation = orientation

    def optimizer(self, context: Context) -> torch.optim.Optimizer:
        rate = asked.positive(context.request, "learning_rate", 4e-3)
        return torch.optim.AdamW(context.network.parameters(), lr=rate, weight_decay=1e-5)

    def lr_scheduler_handler(self, context: Context) -> Any:
        """A gentle first epoch, because fresh statistics of Adam are rough; then a cosine to a fiftieth."""
        scheduler = torch.optim.lr_scheduler.LambdaLR(context.optimizer, _Cosine(context.max_epochs))
        return LrScheduleHandler(lr_scheduler=scheduler, print_lr=False)

    def loss_function(self, context: Context) -> Callable[..., Any]:
        if is_partly_annotated(context):
            return PartlyAnnotatedDiceCE()
        loss: Callable[..., Any] = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)
        return loss

    def train_iteration_update(self, context: Context) -> Callable[..., Any] | None:
        """Tells the loss and the metrics which labels were looked for in the cases of the step."""
        return _partly_annotated_step if is_partly_annotated(context) else None

    def _fixed_transforms(self, context: Context) -> list[Any]:
        channels = channels_of_values(self._names, context.label_values)
        low, high = self.intensity_window
        partly = is_partly_annotated(context)
        return [
            LoadVolumed(keys=_BOTH),
            *([LoadAnnotatedd("label", len(self._names) + 1, channels)] if partly else []),
            Orientationd(keys=_BOTH, axcodes=self.orientation, labels=AXES),
            Spacingd(keys=_BOTH, pixdim=self.spacing_mm, mode=("bilinear", "nearest")),
            ScaleIntensityRanged(keys="image", a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True),
            OnlyKnownLabelsd(keys="label", largest=len(self._names), channels=channels, keep_unknown=partly),
            EnsureTyped(keys="image", dtype=torch.float32),
            EnsureTyped(keys="label", dtype=torch.uint8),
        ]

    def train_pre_transforms(self, context: Context) -> Transforms:
        classes = len(self._names) + 1
        return [
            *self._fixed_transforms(context),
            SpatialPadd(keys=_BOTH, spatial_size=self.roi_size),
            ClassesToIndicesd(keys="label", num_classes=classes, max_samples_per_class=_CENTRES_PER_LABEL),
            RandCropByLabelClassesd(
                keys=_BOTH,
                label_key="label",
                spatial_size=self.roi_size,
                num_classes=classes,
                num_samples=asked.whole_number(context.request, "patches_per_case", 4, least=1),
                indices_key="label_cls_indices",
                warn=False,
            ),
            SelectItemsd(keys=_kept(context)),
            RandScaleIntensityd(keys="image", factors=0.1, prob=0.5),
            RandShiftIntensityd(keys="image", offsets=0.05, prob=0.5),
            EnsureTyped(keys=_BOTH, track_meta=False),  # plain tensors: the network need not carry metadata along
        ]

    def val_pre_transforms(self, context: Context) -> Transforms:
        selected = SelectItemsd(keys=_kept(context))
        return [*self._fixed_transforms(context), selected, EnsureTyped(keys=_BOTH, track_meta=False)]

    def train_data_loader(self, context: Context, num_workers: int = 0, shuffle: bool = True) -> Any:
        dataset = self._dataset(context, context.train_datalist, is_train=True)
        wanted = asked.whole_number(context.request, "steps_per_epoch", 20, least=1) * context.train_batch_size
        repeats = math.ceil(wanted / max(1, len(dataset)))
        return self._dataloader(context, dataset, context.train_batch_size, num_workers, shuffle, repeats)

    def val_inferer(self, context: Context) -> Inferer:
        return SlidingWindowInferer(
            roi_size=self.roi_size, sw_batch_size=2, overlap=0.25, mode="gaussian", padding_mode="replicate"
        )

    def train_key_metric(self, context: Context) -> dict[str, Any] | None:
        """Dice on patches, only if there is no held-out case: it costs time in each step."""
        if context.evaluator is not None:
            return None
        return metrics.patch_dice(self._labels, self.TRAIN_METRIC_MEAN_DICE, "train")

    def train_post_transforms(self, context: Context) -> Transforms:
        """None: nothing looks at single patches."""
        return None

    def val_post_transforms(self, context: Context) -> Transforms:
        return super().train_post_transforms(context)

    def val_key_metric(self, context: Context) -> dict[str, Any]:
        return metrics.region_wise_metrics(self._labels, self.VAL_METRIC_MEAN_DICE, "val")


def _kept(context: Context) -> tuple[str, ...]:
    return (*_BOTH, ANNOTATED) if is_partly_annotated(context) else _BOTH


def _partly_annotated_step(engine: Any, batch: Mapping[str, Any]) -> Any:
    """One step of a MONAI engine whose loss hears what was annotated."""
    if isinstance(engine.loss_function, PartlyAnnotatedDiceCE):
        engine.loss_function.annotated = batch[ANNOTATED]
    output = engine._iteration(engine, batch)
    output[ANNOTATED] = batch[ANNOTATED]
    return output


class _Cosine:
    """Factor of the learning rate by epoch, counted from 0."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs

    def __call__(self, epoch: int) -> float:
        fraction = min(1.0, epoch / max(1, self._epochs))
        falling = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * fraction))
        return 0.4 if epoch == 0 and self._epochs > 1 else falling
