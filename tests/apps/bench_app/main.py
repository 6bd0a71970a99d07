"""A small residual U-Net on whole images of 64^3 voxels, trained as `bare_training.py` trains it without a server."""

from pathlib import Path

import torch
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import EnsureChannelFirstd, LoadImaged, RandFlipd, ScaleIntensityd

from labelserver import BasicTrainTask, LabelApp

KEYS = ["image", "label"]


def network():
    torch.manual_seed(1)
    return UNet(3, 1, 2, channels=(8, 16, 32, 64), strides=(2, 2, 2), num_res_units=1)


def transforms():
    return [
        LoadImaged(KEYS),
        EnsureChannelFirstd(KEYS),
        ScaleIntensityd("image"),
        RandFlipd(KEYS, prob=0.5, spatial_axis=0),
    ]


class Bench(BasicTrainTask):
    """A small U-Net"""

    def network(self, context):
        return network()

    def optimizer(self, context):
        return torch.optim.Adam(context.network.parameters(), lr=1e-3)

    def loss_function(self, context):
        return DiceCELoss(to_onehot_y=True, softmax=True)

    def train_pre_transforms(self, context):
        return transforms()


class BenchApp(LabelApp):
    def __init__(self, app_dir, studies, conf):
        super().__init__(app_dir, studies, conf, name="Bench", labels=["cube"])

    def init_infers(self):
        return {}

    def init_trainers(self):
        model = Path(self.app_dir) / "model"
        return {"bench": Bench(str(model / "bench"), publish_path=str(model / "bench.pt"), labels=["cube"])}
