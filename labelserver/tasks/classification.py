"""Classification of whole images: one class for each, learned from labels that say it.

The label of such an image is a small text file beside the other labels: JSON with the name under ``label`` or
``class``, or the answer of a classifier as it stands (``{"prediction": [{"label", "score"}, ...]}``, whose best is
taken); or text with the name alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.metrics import Accuracy
from monai.config import KeysCollection
from monai.handlers import from_engine
from monai.transforms import (
    Activationsd,
    EnsureTyped,
    MapTransform,
    NormalizeIntensityd,
    RandFlipd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    Resized,
    SelectItemsd,
)

from labelserver.domain.errors import UnreadableFile
from labelserver.tasks import train_request as asked
from labelserver.tasks.base import InferType, Labels, listed_labels
from labelserver.tasks.infer import BasicInferTask
from labelserver.tasks.pictures import ToChannelsd
from labelserver.tasks.train import BasicTrainTask, Context
from labelserver.tasks.transform_runs import Transforms
from labelserver.tasks.transforms import CacheTransformDatad, LoadVolumed

#: bytes; a class's name needs a few, and a label that is something else is not read to its end
_LARGEST_LABEL = 64 * 2**10


def class_in(path: Path) -> str:
    """The class that a label file names.

    Raises:
        UnreadableFile: it names none.
    """
    with path.open("rb") as stream:
        content = stream.read(_LARGEST_LABEL)
    try:
        text = content.decode("utf-8").strip()
        document = json.loads(text) if path.suffix.lower() == ".json" else text
    except ValueError as error:
        raise UnreadableFile(f"{path.name} is no text that names a class.") from error
    if isinstance(document, str) and document:
        return document
    if isinstance(document, Mapping):
        predictions = document.get("prediction")
        if isinstance(predictions, list) and predictions and all(isinstance(p, Mapping) for p in predictions):
            return str(max(predictions, key=lambda p: float(p.get("score", 0.0))).get("label", ""))
        name = document.get("label") or document.get("class")
        if isinstance(name, str) and name:
            return name
    raise UnreadableFile(f'{path.name} names no class. Write {{"label": "NAME"}}.')


class ClassOfLabeld(MapTransform):
    """The path of a label file becomes the index of the class that it names, as a tensor ().

    Raises (on call): `UnreadableFile`, also for a name that is not among `classes`.
    """

    def __init__(self, keys: KeysCollection, classes: Sequence[str], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.classes = list(classes)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            name = class_in(Path(result[key]))
            if name not in self.classes:
                raise UnreadableFile(f"{Path(result[key]).name} says {name!r}; known are {', '.join(self.classes)}.")
            result[key] = torch.tensor(self.classes.index(name))
        return result


def _input_transforms(channels: int, size: Sequence[int]) -> list[Any]:
    return [
        LoadVolumed(keys="image"),
        ToChannelsd(keys="image", channels=channels),
        Resized(keys="image", spatial_size=tuple(size)),
        NormalizeIntensityd(keys="image", channel_wise=True),
    ]


class ClassificationInfer(BasicInferTask):
    """Classification of an image"""

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        network: torch.nn.Module | None,
        labels: Labels,
        *,
        spatial_size: Sequence[int],
        channels: int = 1,
        description: str = "",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Describe what the network was trained on; `ClassificationTrain` takes the same values.

        Args:
            path: weight file or files; the last existing one is in use.
            network: template, from (B, channels, *spatial_size) to (B, number of classes).
            labels: names of the classes in the order of the network's outputs.
            spatial_size: voxels that each image is resampled to; its length says 2-D or 3-D.
            channels: of the network's input, 1 or 3.
            description: for people.
            config: options with their defaults.
        """
        super().__init__(
            path=path,
            network=network,
            type=InferType.CLASSIFICATION,
            labels=list(listed_labels(labels)),
            dimension=len(spatial_size),
            description=description,
            config=config,
        )
        self.spatial_size = tuple(int(size) for size in spatial_size)
        self.channels = channels

    def pre_transforms(self, data: dict[str, Any] | None = None) -> Transforms:
        return [*_input_transforms(self.channels, self.spatial_size), CacheTransformDatad(keys="image")]

    def post_transforms(self, data: dict[str, Any] | None = None) -> Transforms:
        return [Activationsd(keys="pred", softmax=True)]


class ClassificationTrain(BasicTrainTask):
    """Training of a classification network"""

    def __init__(
        self,
        model_dir: str | Path,
        network: torch.nn.Module,
        labels: Labels,
        *,
        spatial_size: Sequence[int],
        channels: int = 1,
        mirrored_axes: Sequence[int] = (),
        config: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Describe what the network learns. Options that this class adds: ``learning_rate``, default 0.001.

        Args:
            model_dir: folder of the run folders, below the app.
            network: from (B, channels, *spatial_size) to (B, number of classes).
            labels: names of the classes in the order of the network's outputs.
            spatial_size: voxels that each image is resampled to; its length says 2-D or 3-D.
            channels: of the network's input, 1 or 3.
            mirrored_axes: axes along which an image may be mirrored without changing its class.
            config: options with their defaults.
            options: further arguments of `BasicTrainTask`.
        """
        self._classes = list(listed_labels(labels))
        super().__init__(
            model_dir,
            labels=self._classes,
            network=network,
            config={"learning_rate": 1e-3, "train_batch_size": 4, **(config or {})},
            **options,
        )
        self.spatial_size = tuple(int(size) for size in spatial_size)
        self.channels = channels
        self.mirrored_axes = tuple(mirrored_axes)

    def optimizer(self, context: Context) -> torch.optim.Optimizer:
        rate = asked.positive(context.request, "learning_rate", 1e-3)
        return torch.optim.AdamW(context.network.parameters(), lr=rate)

    def loss_function(self, context: Context) -> Callable[..., Any]:
        return torch.nn.CrossEntropyLoss()

    def _fixed_transforms(self) -> list[Any]:
        return [
            *_input_transforms(self.channels, self.spatial_size),
            ClassOfLabeld(keys="label", classes=self._classes),
            SelectItemsd(keys=("image", "label")),
        ]

    def train_pre_transforms(self, context: Context) -> Transforms:
        return [
            *self._fixed_transforms(),
            *(RandFlipd(keys="image", prob=0.5, spatial_axis=axis) for axis in self.mirrored_axes),
            RandScaleIntensityd(keys="image", factors=0.1, prob=0.5),
            RandShiftIntensityd(keys="image", offsets=0.1, prob=0.5),
            EnsureTyped(keys="image", track_meta=False),
        ]

    def val_pre_transforms(self, context: Context) -> Transforms:
        return [*self._fixed_transforms(), EnsureTyped(keys="image", track_meta=False)]

    def train_post_transforms(self, context: Context) -> Transforms:
        return [Activationsd(keys="pred", softmax=True)]

    def train_key_metric(self, context: Context) -> dict[str, Any]:
        return {self.TRAIN_METRIC_ACCURACY: Accuracy(output_transform=from_engine(["pred", "label"]))}

    def val_key_metric(self, context: Context) -> dict[str, Any]:
        return {self.VAL_METRIC_ACCURACY: Accuracy(output_transform=from_engine(["pred", "label"]))}
