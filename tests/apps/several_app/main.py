"""A trainer without chance, which writes down which cases each of its processes saw."""

import json
from pathlib import Path

import torch
from ignite.engine import Events
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import EnsureChannelFirstd, LoadImaged, ScaleIntensityd

from labelserver import BasicTrainTask, LabelApp

KEYS = ["image", "label"]


class Cubes(BasicTrainTask):
    """Finds cubes"""

    def network(self, context):
        torch.manual_seed(7 + context.local_rank)  # the ranks agree on rank 0's
        return UNet(3, 1, 2, channels=(4, 8), strides=(2,), norm="INSTANCE")

    def optimizer(self, context):
        return torch.optim.SGD(context.network.parameters(), lr=0.05, momentum=0.9)

    def lr_scheduler_handler(self, context):
        return None

    def loss_function(self, context):
        return DiceCELoss(to_onehot_y=True, softmax=True)

    def train_pre_transforms(self, context):
        return [LoadImaged(KEYS), EnsureChannelFirstd(KEYS), ScaleIntensityd("image")]

    def finalize(self, context):
        super().finalize(context)
        seen = Path(self.model_dir) / f"seen_{context.local_rank}_of_{context.world_size}.jsonl"
        fail_at = int(context.request.get("fail_at", 0))

        def note(engine):
            files = engine.state.batch["image"].meta["filename_or_obj"]
            names = [Path(name).name for name in ([files] if isinstance(files, str) else files)]
            with seen.open("a") as stream:
                stream.write(json.dumps([engine.state.epoch, names]) + "\n")
            if context.local_rank == 1 and engine.state.iteration == fail_at:
                raise RuntimeError("one of them fails")

        context.trainer.add_event_handler(Events.ITERATION_STARTED, note)


class App(LabelApp):
    def __init__(self, app_dir, studies, conf):
        super().__init__(app_dir, studies, conf, name="Several", description="Several processes train")

    def init_trainers(self):
        model = Path(self.app_dir) / "model"
        return {"cubes": Cubes(model / "cubes", publish_path=str(model / "cubes.pt"), labels=["cube"])}
