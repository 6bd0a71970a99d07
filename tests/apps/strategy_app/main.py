"""An app for replaying strategies with a real training: a small U-Net whose averaged weights (EMA) are what counts."""

from pathlib import Path

import torch
from ignite.engine import Events
from labelserver import LabelApp
from labelserver.tasks.segmentation import SegmentationInfer
from labelserver.tasks.segmentation_train import SegmentationTrain
from monai.networks.nets import UNet

LABELS = ["liver", "spleen", "right_kidney", "left_kidney"]
GEOMETRY = {"spacing_mm": (6, 6, 6), "roi_size": (32, 32, 32), "intensity_window": (-160, 240)}
DECAY = 0.99


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet(3, 1, 1 + len(LABELS), channels=(12, 24, 48), strides=(2, 2), num_res_units=1, norm="INSTANCE")


class Averaged:
    """Keeps the exponential moving average of the weights, and puts it in their place at the very end."""

    def __init__(self, network):
        self.network = network
        self.mean = {name: value.detach().clone() for name, value in network.state_dict().items()}
        self.steps = 0

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.follow)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.end)

    def follow(self, engine):
        self.steps += 1
        decay = min(DECAY, (1 + self.steps) / (10 + self.steps))
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                self.mean[name].lerp_(value, 1 - decay)
            else:
                self.mean[name].copy_(value)

    def end(self, engine):
        if engine.state.epoch == engine.state.max_epochs:
            self.network.load_state_dict(self.mean)


class Train(SegmentationTrain):
    """Training whose last weights are the average"""

    def train_handlers(self, context):
        return [*super().train_handlers(context), Averaged(context.network)]

    def train_key_metric(self, context):
        return None  # the last epoch counts, not the best


class App(LabelApp):
    def __init__(self, app_dir, studies, conf):
        self.home = Path(app_dir)
        super().__init__(app_dir, studies, conf, name="Strategies", labels=LABELS)

    def init_infers(self):
        path = self.home / "model" / "segmentation.pt"
        return {"segmentation": SegmentationInfer(path, network(), LABELS, **GEOMETRY)}

    def init_trainers(self):
        folder, path = self.home / "model" / "segmentation", self.home / "model" / "segmentation.pt"
        return {"segmentation": Train(folder, network(), LABELS, publish_path=str(path), **GEOMETRY)}
