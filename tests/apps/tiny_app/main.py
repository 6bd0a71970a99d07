"""An app without networks: one model that fills the image, one trainer that counts, one scoring method."""

import os
import signal
import tempfile
import threading
from pathlib import Path

import numpy as np

from labelserver import AbstractInferTask, LabelApp, ScoringMethod, TrainTask
from labelserver.contracts.progress import current_progress
from labelserver.imaging.volumes import read_grid, write_volume


class Fill(AbstractInferTask):
    """Fills the whole image with one value."""

    def __init__(self):
        super().__init__("segmentation", ["organ"], 3, "Fills the image")

    def is_valid(self):
        return True

    def __call__(self, request):
        if request.get("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        meet(request.get("meet"))
        grid = read_grid(Path(request["image"]))
        with tempfile.NamedTemporaryFile(suffix=".nii.gz", delete=False) as file:
            pass
        mask = np.full(grid.shape, int(request.get("value", 1)), np.uint8)
        write_volume(Path(file.name), mask, grid.affine, compress=True)
        return file.name, {"label_names": {"organ": 1}, "voxels": np.prod(grid.shape)}


class Count(TrainTask):
    """Counts to ten, and goes on where it was stopped."""

    def __call__(self, request, datastore):
        progress = current_progress()
        kept = progress.folder / "count"
        first = int(kept.read_text()) if progress.resume else 0
        for step in range(first, 10):
            progress.report({"epoch": step + 1, "total_epochs": 10})
            if step == 5:
                meet(request.get("meet"))
            if request.get("yield_device"):
                progress.yield_device("cpu")
            if progress.should_stop():
                kept.write_text(str(step + 1))
                break
        return {"first": first, "labeled": len(datastore.get_labeled_images())}


class Size(ScoringMethod):
    """Scores an image by the length of its name."""

    def __call__(self, request, datastore):
        for image in datastore.list_images():
            datastore.update_image_info(image, {"size_score": len(image)})
        return {"scored": len(datastore.list_images())}


class TinyApp(LabelApp):
    def __init__(self, app_dir, studies, conf):
        super().__init__(app_dir, studies, conf, name="Tiny", description="For tests", labels=["organ"])

    def init_infers(self):
        return {"fill": Fill()}

    def init_trainers(self):
        return {"count": Count("Counts")}

    def init_scoring_methods(self):
        return {"size": Size("Measures names")}


def meet(barrier):
    """Write ``<barrier>.at`` and wait for ``<barrier>.pass``, or for a stop."""
    if not barrier:
        return
    Path(barrier + ".at").touch()
    pause = threading.Event()
    while not Path(barrier + ".pass").exists() and not current_progress().should_stop():
        pause.wait(0.005)
