"""A small app without torch: thresholds instead of networks, and a trainer that only counts."""

import os
import tempfile
import time
from pathlib import Path

import numpy as np

from labelserver import LabelApp, ScoringMethod, Strategy, TrainTask
from labelserver.contracts.progress import current_progress
from labelserver.imaging.volumes import read_volume, write_volume
from labelserver.tasks.base import InferTask
from labelserver.tasks.strategies import First, Random

LABELS = {"dark": 1, "bright": 42}


class Threshold(InferTask):
    """Two classes by intensity."""

    def __init__(self):
        super().__init__("segmentation", LABELS, 3, "Two classes by intensity", {"level": 50.0})

    def is_valid(self):
        return True

    def __call__(self, request):
        if request.get("die"):
            os.kill(os.getpid(), 9)
        time.sleep(float(request.get("wait_s", 0)))
        volume = read_volume(Path(request["image"]))
        mask = np.where(volume.voxels > float(request.get("level", 50)), 2, 1).astype(
            request.get("result_dtype", "uint8")
        )
        ext = request.get("result_extension") or ".nii.gz"
        handle, name = tempfile.mkstemp(suffix=ext)
        os.close(handle)
        write_volume(Path(name), mask, volume.grid.affine, compress=False)
        return name, {"label_names": {"dark": 1, "bright": 2}, "mean": float(volume.voxels.mean())}


class Counting(TrainTask):
    """Counts epochs until it is told to stop."""

    def config(self):
        return {"max_epochs": 3, "step_s": 0.01}

    def __call__(self, request, datastore):
        progress = current_progress()
        epochs = int(request.get("max_epochs", 3))
        epoch = 0
        while epoch < epochs and not progress.should_stop():
            time.sleep(float(request.get("step_s", 0.01)))
            epoch += 1
            progress.report({"epoch": epoch, "total_epochs": epochs, "best_metric": epoch / epochs})
            progress.log(f"epoch {epoch} of {epochs}")
        return {"epoch": epoch, "total_epochs": epochs, "best_metric": epoch / epochs}


class Brightness(ScoringMethod):
    """Writes the mean of each image."""

    def __call__(self, request, datastore):
        for image_id in datastore.get_unlabeled_images():
            mean = float(read_volume(Path(datastore.get_image_uri(image_id))).voxels.mean())
            datastore.update_image_info(image_id, {"brightness": mean})
        return {"scored": len(datastore.list_images())}


class Brightest(Strategy):
    """The unlabeled image with the highest score."""

    def __call__(self, request, datastore):
        images = datastore.get_unlabeled_images()
        return max(images, key=lambda i: datastore.get_image_info(i).get("brightness", 0.0)) if images else None


class App(LabelApp):
    def __init__(self, app_dir, studies, conf):
        super().__init__(app_dir, studies, conf, name="Rest app", description="For tests over HTTP", version="1.2")

    def init_infers(self):
        return {"threshold": Threshold()}

    def init_trainers(self):
        return {"counting": Counting()}

    def init_strategies(self):
        return {"random": Random(), "first": First(), "brightest": Brightest()}

    def init_scoring_methods(self):
        return {"brightness": Brightness()}

    def on_save_label(self, image_id, label_id):
        return {"seen_by_app": f"{image_id}/{label_id}"}
