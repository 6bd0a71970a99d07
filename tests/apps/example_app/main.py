"""The example app of the peer's oldest documentation, written from its description: only the import lines are ours.

It gives what that page gives and nothing more: infer hooks without arguments, a trainer without network and optimizer,
a scoring method without constructor, a strategy that returns a bare id.
"""

import logging
import os
import time

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    Orientationd,
    RandFlipd,
    ScaleIntensityRanged,
    Spacingd,
    SqueezeDimd,
    ToNumpyd,
)

from labelserver import (
    BasicTrainTask,
    InferTask,
    MONAILabelApp,
    ScoringMethod,
    Strategy,
)
from labelserver.tasks.transforms import Restored

logger = logging.getLogger(__name__)
RAS = (("L", "R"), ("P", "A"), ("I", "S"))


class MyInfer(InferTask):
    def pre_transforms(self):
        return [
            LoadImaged(keys="image"),
            EnsureChannelFirstd(keys="image"),
            Orientationd(keys="image", axcodes="RAS", labels=RAS),
            Spacingd(keys="image", pixdim=(4.0, 4.0, 4.0)),
            ScaleIntensityRanged(keys="image", a_min=-175, a_max=250, b_min=0.0, b_max=1.0, clip=True),
        ]

    def inverse_transforms(self):
        return []

    def inferer(self):
        return SlidingWindowInferer(roi_size=(32, 32, 32))

    def post_transforms(self):
        return [
            Activationsd(keys="pred", softmax=True),
            AsDiscreted(keys="pred", argmax=True),
            SqueezeDimd(keys="pred", dim=0),
            ToNumpyd(keys="pred"),
            Restored(keys="pred", ref_image="image", has_channel=False),
        ]


class MyTrainTask(BasicTrainTask):
    def loss_function(self, context):
        return DiceCELoss(to_onehot_y=True, softmax=True)

    def train_pre_transforms(self, context):
        return Compose(
            [
                LoadImaged(keys=("image", "label")),
                EnsureChannelFirstd(keys=("image", "label")),
                Orientationd(keys=("image", "label"), axcodes="RAS", labels=RAS),
                Spacingd(keys=("image", "label"), pixdim=(4.0, 4.0, 4.0), mode=("bilinear", "nearest")),
                ScaleIntensityRanged(keys="image", a_min=-175, a_max=250, b_min=0.0, b_max=1.0, clip=True),
                RandFlipd(keys=("image", "label"), spatial_axis=0, prob=0.0),
                EnsureTyped(keys=("image", "label")),
            ]
        )

    def train_inferer(self, context):
        return SlidingWindowInferer(roi_size=(32, 32, 32))

    def train_post_transforms(self, context):
        return Compose(
            [
                Activationsd(keys="pred", softmax=True),
                AsDiscreted(keys=("pred", "label"), argmax=(True, False), to_onehot=(2, 2)),
            ]
        )

    def val_pre_transforms(self, context):
        return Compose(
            [
                LoadImaged(keys=("image", "label")),
                EnsureChannelFirstd(keys=("image", "label")),
                Orientationd(keys=("image", "label"), axcodes="RAS", labels=RAS),
                Spacingd(keys=("image", "label"), pixdim=(4.0, 4.0, 4.0), mode=("bilinear", "nearest")),
                ScaleIntensityRanged(keys="image", a_min=-175, a_max=250, b_min=0.0, b_max=1.0, clip=True),
                EnsureTyped(keys=("image", "label")),
            ]
        )

    def val_inferer(self):
        return SlidingWindowInferer(roi_size=(32, 32, 32))


class MyScoreGeneratorMethod(ScoringMethod):
    def __call__(self, request, datastore):
        model_ts = int(os.stat(self.scoring_model_path).st_mtime)
        model = torch.jit.load(self.scoring_model_path, map_location=self.device).eval()
        load = Compose([LoadImaged(keys="image"), EnsureChannelFirstd(keys="image")])
        result = {}
        for image_id in datastore.get_unlabeled_images():
            info = datastore.get_image_info(image_id)
            if info.get("my_score", {}).get("model_ts") == model_ts:
                logger.info("already scored: %s", image_id)
                continue
            image = load({"image": datastore.get_image_uri(image_id)})["image"]
            with torch.no_grad():
                spread = np.std([float(model(image[None, :, ::4, ::4, ::4]).mean()) for _ in range(2)])
            score = {"score": float(spread) + float(image.std()), "model_ts": model_ts, "ts": int(time.time())}
            datastore.update_image_info(image_id, {"my_score": score})
            result[image_id] = score
        return result


class SelectImageWithMyScore(Strategy):
    def __call__(self, request, datastore):
        images = datastore.get_unlabeled_images()
        if not images:
            return None
        scores = {image: datastore.get_image_info(image).get("my_score", {}).get("score", 0) for image in images}
        return max(images, key=lambda image: scores[image])


class MyApp(MONAILabelApp):
    def __init__(self, app_dir, studies, conf):
        self.model_dir = os.path.join(app_dir, "model")
        self.network = UNet(
            spatial_dims=3, in_channels=1, out_channels=2, channels=(4, 8), strides=(2,), num_res_units=0
        )
        self.pretrained_model = os.path.join(self.model_dir, "pretrained.pt")
        self.final_model = os.path.join(self.model_dir, "final.pt")
        self.scoring_model = os.path.join(self.model_dir, "scoring.ts")
        self._make_pretrained_files()
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="Example",
            description="The example of the documentation",
            labels=["organ"],
        )

    def _make_pretrained_files(self):
        if not os.path.exists(self.pretrained_model):
            torch.manual_seed(0)
            torch.save(self.network.state_dict(), self.pretrained_model)
        if not os.path.exists(self.scoring_model):
            torch.jit.trace(torch.nn.Conv3d(1, 1, 1), torch.zeros(1, 1, 4, 4, 4)).save(self.scoring_model)

    def init_infers(self):
        return {"segmentation": MyInfer([self.pretrained_model, self.final_model], self.network)}

    def init_strategies(self):
        return {"my_strategy": SelectImageWithMyScore()}

    def init_trainers(self):
        return {
            "segmentation": MyTrainTask(
                os.path.join(self.model_dir, "train"),
                self.network,
                load_path=self.pretrained_model,
                publish_path=self.final_model,
            )
        }

    def init_scoring_methods(self):
        return {"my_scoring": MyScoreGeneratorMethod(model=self.scoring_model)}
