"""An app as one would write it for MONAI Label, for measuring: a segmentation and a click model of one small network.

`seg` is a residual U-Net in a 96^3 sliding window; `click` the same network with two guidance channels at 128x128x64.
`own_seg` is the same model as our ready-made task; `noop` answers a mask that it keeps, to measure what is around it.
"""

import os
from typing import Dict

import numpy as np
import torch
from labelserver.tasks.segmentation import SegmentationInfer
from labelserver.tasks.writers import Writer
from monai.apps.deepedit.transforms import (
    AddGuidanceFromPointsDeepEditd,
    AddGuidanceSignalDeepEditd,
    ResizeGuidanceMultipleLabelDeepEditd,
)
from monai.inferers import SimpleInferer, SlidingWindowInferer
from monai.networks.nets import UNet
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    Resized,
    ScaleIntensityd,
    ScaleIntensityRanged,
    Spacingd,
)
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.tasks.infer.basic_infer import BasicInferTask
from monailabel.transform.post import Restored

ROI = (96, 96, 96)
CLICK_SIZE = (128, 128, 64)
SPACING = (1.5, 1.5, 1.5)
AXES = (("L", "R"), ("P", "A"), ("I", "S"))


def unet(channels: int) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet(3, channels, 2, (8, 16, 32, 64), (2, 2, 2), num_res_units=2)


class Seg(BasicInferTask):
    def __init__(self, path):
        super().__init__(path, unet(1), InferType.SEGMENTATION, ["organ"], 3, "Segmentation", roi_size=ROI)

    def pre_transforms(self, data=None):
        return [
            LoadImaged(keys="image"),
            EnsureTyped(keys="image", device=data.get("device") if data else None),
            EnsureChannelFirstd(keys="image"),
            Orientationd(keys="image", axcodes="RAS", labels=AXES),
            Spacingd(keys="image", pixdim=SPACING, allow_missing_keys=True),
            NormalizeIntensityd(keys="image", nonzero=True),
            ScaleIntensityd(keys="image", minv=-1.0, maxv=1.0),
        ]

    def inferer(self, data=None):
        return SlidingWindowInferer(roi_size=ROI, sw_batch_size=2, overlap=0.25, mode="gaussian")

    def inverse_transforms(self, data=None):
        return []

    def post_transforms(self, data=None):
        return [
            EnsureTyped(keys="pred", device=data.get("device") if data else None),
            Activationsd(keys="pred", softmax=True),
            AsDiscreted(keys="pred", argmax=True),
            Restored(keys="pred", ref_image="image"),
        ]


class OneOrgan(torch.nn.Module):
    """The network's time and the mask of one organ: a ball in the middle, whatever the network says."""

    def __init__(self):
        super().__init__()
        self.network = unet(3)
        axes = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in CLICK_SIZE), indexing="ij")
        self.register_buffer("ball", (0.3 - sum(a * a for a in axes).sqrt())[None], persistent=False)

    def forward(self, x):
        scores = self.network(x)
        scores[:, 0] = 0
        scores[:, 1] = self.ball
        return scores


class Click(BasicInferTask):
    def __init__(self, path, network):
        labels = {"organ": 1, "background": 0}
        super().__init__(path, network, InferType.DEEPEDIT, labels, 3, "Clicks")

    def pre_transforms(self, data=None):
        return [
            LoadImaged(keys="image"),
            EnsureChannelFirstd(keys="image"),
            Orientationd(keys="image", axcodes="RAS", labels=AXES),
            ScaleIntensityRanged(keys="image", a_min=-175, a_max=250, b_min=0.0, b_max=1.0, clip=True),
            AddGuidanceFromPointsDeepEditd(ref_image="image", guidance="guidance", label_names=self.labels),
            Resized(keys="image", spatial_size=CLICK_SIZE, mode="area"),
            ResizeGuidanceMultipleLabelDeepEditd(guidance="guidance", ref_image="image"),
            AddGuidanceSignalDeepEditd(keys="image", guidance="guidance", number_intensity_ch=1),
            EnsureTyped(keys="image", device=data.get("device") if data else None),
        ]

    def inferer(self, data=None):
        return SimpleInferer()

    def inverse_transforms(self, data=None):
        return []

    def post_transforms(self, data=None):
        return [
            EnsureTyped(keys="pred", device=data.get("device") if data else None),
            Activationsd(keys="pred", softmax=True),
            AsDiscreted(keys="pred", argmax=True),
            Restored(keys="pred", ref_image="image"),
        ]


class Noop(InferTask):
    """A mask of one organ that is there already."""

    def __init__(self):
        super().__init__("segmentation", ["organ"], 3, "Nothing")
        self.mask = np.zeros((512, 512, 200), np.uint8, order="F")
        self.mask[200:300, 200:280, 60:120] = 1

    def is_valid(self):
        return True

    def __call__(self, request):
        return Writer()({**request, "pred": self.mask, "image_path": request["image"]})


class MyApp(MONAILabelApp):
    def __init__(self, app_dir, studies, conf):
        self.model_dir = os.path.join(app_dir, "model")
        super().__init__(app_dir=app_dir, studies=studies, conf=conf, name="Measured", description="For measuring")

    def init_infers(self) -> Dict[str, InferTask]:
        own = SegmentationInfer("", unet(1), ["organ"], spacing_mm=SPACING, roi_size=ROI)
        click, organ = Click(None, unet(3)), Click(None, OneOrgan())
        tasks = {"seg": Seg(None), "own_seg": own, "click": click, "organ": organ, "noop": Noop()}
        chosen = self.conf.get("models", "all")
        return tasks if chosen == "all" else {name: tasks[name] for name in chosen.split(",")}
