"""The model ``segmentation``: one small U-Net, made once here for inference, training and scoring alike."""

from __future__ import annotations

from pathlib import Path

import torch
from monai.networks.nets import UNet

from labelserver.tasks.pool_scoring import PoolScoring
from labelserver.tasks.segmentation import SegmentationInfer
from labelserver.tasks.segmentation_train import SegmentationTrain
from lib.configuration import Configuration

NAME = "segmentation"


class Segmentation:
    """Makes the tasks of the model."""

    def __init__(self, model_dir: Path, options: Configuration) -> None:
        self.options = options
        self.model_dir = model_dir
        self.published = model_dir / f"{NAME}.pt"
        pretrained = [model_dir / f"pretrained_{NAME}.pt"] if options.use_pretrained_model else []
        #: The last existing one is in use.
        self.paths = [str(path) for path in (*pretrained, self.published)]

    def network(self) -> torch.nn.Module:
        """From (B, 1, ...) intensities to (B, 1 + labels, ...) scores. It always starts from the same weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return UNet(
                spatial_dims=3,
                in_channels=1,
                out_channels=1 + len(self.options.labels),
                channels=self.options.network,
                strides=(2,) * (len(self.options.network) - 1),
                norm="INSTANCE",
                dropout=self.options.dropout,
            )

    def infer(self, *, sampling: bool = False) -> SegmentationInfer:
        """Segment an image; with `sampling` dropout stays active and the scores are returned instead of a file."""
        return SegmentationInfer(
            self.paths,
            self.network(),
            self.options.labels,
            spacing_mm=self.options.spacing,
            roi_size=self.options.roi_size,
            intensity_window=self.options.intensity_window,
            description="Automatic segmentation of abdominal organs in CT",
            train_mode=sampling,
            skip_writer=sampling,
        )

    def trainer(self) -> SegmentationTrain:
        return SegmentationTrain(
            self.model_dir / NAME,
            self.network(),
            self.options.labels,
            spacing_mm=self.options.spacing,
            roi_size=self.options.roi_size,
            intensity_window=self.options.intensity_window,
            load_path=self.paths[:-1],
            publish_path=str(self.published),
            description="Training of the segmentation model on all accepted labels",
        )

    def scoring(self) -> PoolScoring:
        return PoolScoring(
            self.infer(sampling=True),
            NAME,
            looks=self.options.epistemic_simulation_size,
            max_samples=self.options.epistemic_max_samples,
            description="How unsure the segmentation model is about each image, and what the image is like to it",
        )
