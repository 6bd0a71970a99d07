import logging

import torch
from ignite.engine import Events
from monai.inferers import SlidingWindowInferer
from monai.losses import DiceCELoss
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    RandSpatialCropd,
    ScaleIntensityd,
    SelectItemsd,
    Spacingd,
    SpatialPadd,
)
from monailabel.tasks.train.basic_train import BasicTrainTask, Context
from monailabel.tasks.train.utils import region_wise_metrics

logger = logging.getLogger(__name__)
LABELS = (("L", "R"), ("P", "A"), ("I", "S"))


class Segmentation(BasicTrainTask):
    def __init__(self, model_dir, network, roi_size, target_spacing, description="Train segmentation model", **kwargs):
        self._network = network
        self.roi_size = roi_size
        self.target_spacing = target_spacing
        self.epochs_seen = []
        super().__init__(model_dir, description, **kwargs)

    def network(self, context: Context):
        return self._network

    def optimizer(self, context: Context):
        return torch.optim.AdamW(context.network.parameters(), lr=1e-3, weight_decay=1e-5)

    def loss_function(self, context: Context):
        return DiceCELoss(to_onehot_y=True, softmax=True)

    def lr_scheduler_handler(self, context: Context):
        return None

    def train_data_loader(self, context, num_workers=0, shuffle=False):
        return super().train_data_loader(context, num_workers, True)

    def train_pre_transforms(self, context: Context):
        return self._read() + [
            SpatialPadd(keys=("image", "label"), spatial_size=self.roi_size),
            RandSpatialCropd(keys=("image", "label"), roi_size=self.roi_size, random_size=False),
            SelectItemsd(keys=("image", "label")),
        ]

    def train_post_transforms(self, context: Context):
        return [
            EnsureTyped(keys="pred", device=context.device),
            Activationsd(keys="pred", softmax=True),
            AsDiscreted(
                keys=("pred", "label"), argmax=(True, False), to_onehot=(len(self._labels) + 1, len(self._labels) + 1)
            ),
        ]

    def val_pre_transforms(self, context: Context):
        return self._read() + [SelectItemsd(keys=("image", "label"))]

    def val_inferer(self, context: Context):
        return SlidingWindowInferer(roi_size=self.roi_size, sw_batch_size=2, overlap=0.25)

    def train_key_metric(self, context: Context):
        return region_wise_metrics(self._labels, "train_mean_dice", "train")

    def val_key_metric(self, context: Context):
        return region_wise_metrics(self._labels, "val_mean_dice", "val")

    def train_handlers(self, context: Context):
        handlers = super().train_handlers(context)
        return handlers

    def finalize(self, context: Context):
        super().finalize(context)
        context.trainer.add_event_handler(
            Events.EPOCH_COMPLETED, lambda engine: self.epochs_seen.append(engine.state.epoch)
        )
        with open(f"{context.output_dir}/finalized.txt", "w") as f:
            f.write(f"{context.run_id} {context.evaluator is not None}")

    def _read(self):
        return [
            LoadImaged(keys=("image", "label")),
            EnsureChannelFirstd(keys=("image", "label")),
            Orientationd(keys=("image", "label"), axcodes="RAS", labels=LABELS),
            Spacingd(keys=("image", "label"), pixdim=self.target_spacing, mode=("bilinear", "nearest")),
            NormalizeIntensityd(keys="image", nonzero=True),
            ScaleIntensityd(keys="image", minv=-1.0, maxv=1.0),
            EnsureTyped(keys=("image", "label")),
        ]
