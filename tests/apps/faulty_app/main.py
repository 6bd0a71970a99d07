"""A trainer of a few thousand parameters that fails in the way the request's ``fault`` says."""

import os
import resource
import signal
from pathlib import Path

import torch
from monai.losses import DiceCELoss
from monai.transforms import EnsureChannelFirstd, LoadImaged, RandSpatialCropd, ScaleIntensityd

from labelserver import BasicTrainTask, LabelApp
from labelserver.contracts.progress import current_progress

KEYS = ["image", "label"]


class Tiny(BasicTrainTask):
    """Tells a bright cube from noise"""

    def network(self, context):
        torch.manual_seed(7)
        return torch.nn.Sequential(torch.nn.Conv3d(1, 192, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(192, 2, 1))

    def pre_process(self, request, datastore):
        """One case's label may be a file that was damaged where no store could notice."""
        broken = str(Path(self.model_dir) / "broken.nii.gz")
        named = request.get("broken")
        return [
            {**case, "label": broken} if named and named in case["image"] else case for case in datastore.datalist()
        ]

    def optimizer(self, context):
        return torch.optim.Adam(context.network.parameters(), lr=1e-2)

    def loss_function(self, context):
        loss, request = DiceCELoss(to_onehot_y=True, softmax=True), context.request

        def watched(pred, label):
            value = loss(pred, label)
            return value * float("nan") if due(request, "nan", context) else value

        return watched

    def train_pre_transforms(self, context):
        return [
            LoadImaged(KEYS),
            EnsureChannelFirstd(KEYS),
            ScaleIntensityd("image"),
            RandSpatialCropd(KEYS, roi_size=(12, 12, 12), random_size=False),
        ]

    def val_pre_transforms(self, context):
        return self.train_pre_transforms(context)[:-1]

    def train_iteration_update(self, context):
        request = context.request

        def step(engine, batch):
            if due(request, "memory", context):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            if due(request, "limit", context):
                used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
                resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
                torch.zeros(2**28)
            if due(request, "kill", context):
                os.kill(os.getpid(), signal.SIGKILL)
            if due(request, "raise", context):
                raise ZeroDivisionError("the network is upside down")
            if due(request, "disk", context):  # no file may grow to the size of the weights
                resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, 2**14))
            at = request.get("meet_at")
            if at and engine.state.iteration == int(at):
                meet(current_progress().folder / "meet")
            return engine._iteration(engine, batch)

        return step


def due(request, fault, context):
    """At the second step of a first run: a resumed one goes on in peace."""
    second = context.trainer is not None and context.trainer.state.iteration >= 2
    return request.get("fault") == fault and second and not current_progress().resume


def meet(barrier):
    """Say that the step has come, and wait to be killed, or let go."""
    barrier.with_suffix(".at").touch()
    while not barrier.with_suffix(".pass").exists():
        pass


class FaultyApp(LabelApp):
    def __init__(self, app_dir, studies, conf):
        super().__init__(app_dir, studies, conf, name="Faulty", labels=["cube"])

    def init_infers(self):
        return {}

    def init_trainers(self):
        model = Path(self.app_dir) / "model"
        return {"tiny": Tiny(str(model / "tiny"), publish_path=str(model / "tiny.pt"), labels=["cube"])}
