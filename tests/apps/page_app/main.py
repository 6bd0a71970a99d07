"""An app for tests of the labeling page: a model that paints where it is told, one that trains in seconds.

`cube` answers a click with a large cube. `paint` notes what it got, in voxels of the image's file, in ``prompts.jsonl``; while a file named ``hold`` lies in the
app's folder, it does not answer. `organs` is a small network with a trainer.
"""

import json
import time
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets import UNet

from labelserver import LabelApp
from labelserver.contracts.progress import current_progress
from labelserver.domain.prompts import PromptKind
from labelserver.tasks.base import Strategy
from labelserver.tasks.interactive import InteractiveTask, Prediction, painted
from labelserver.tasks.scoring import Sum
from labelserver.tasks.segmentation import SegmentationInfer
from labelserver.tasks.segmentation_train import SegmentationTrain
from labelserver.tasks.strategies import First, Random

LABELS = ("liver", "spleen")
RADIUS = 3


class Paint(InteractiveTask):
    """A ball round a point; the box, the scribble or the lasso as it was drawn."""

    prompt_kinds = frozenset({PromptKind.POINT, PromptKind.SCRIBBLE, PromptKind.BOX, PromptKind.LASSO})

    def __init__(self, folder):
        values = {name: n for n, name in enumerate(LABELS, start=1)}
        super().__init__("deepgrow", values, 3, "Paints what it is told")
        self.folder = folder

    def predict(self, prepared, clicks):
        while (self.folder / "hold").exists() and not current_progress().should_stop():
            time.sleep(0.01)
        mask = np.array(clicks.mask)
        for prompt in clicks.prompts[len(clicks.prompts) - clicks.new :]:
            self.note(prompt)
            lo, hi, inside = drawn(prompt, np.array(mask.shape))
            box = tuple(slice(a, b) for a, b in zip(lo, hi))
            value = clicks.value_of(prompt)
            after = (mask[box] == value) | inside if prompt.positive else (mask[box] == value) & ~inside
            mask[box] = painted(mask, tuple(int(n) for n in lo), after, value)
        yield Prediction((0, 0, 0), mask)

    def note(self, prompt):
        told = {"kind": prompt.kind.value, "label": prompt.label, "positive": prompt.positive}
        told["points"] = prompt.points.tolist()
        if prompt.mask is not None:
            told["voxels"] = prompt.mask.indices().astype(int).tolist()
        with (self.folder / "prompts.jsonl").open("a") as stream:
            stream.write(json.dumps(told) + "\n")


class Cube(InteractiveTask):
    """A cube of 128 voxels a side that begins at the point."""

    prompt_kinds = frozenset({PromptKind.POINT})

    def __init__(self):
        super().__init__("deepgrow", {name: n for n, name in enumerate(LABELS, start=1)}, 3, "A large cube")

    def predict(self, prepared, clicks):
        lo = np.rint(clicks.prompts[-1].points[0]).astype(int)
        side = np.minimum(np.array(clicks.mask.shape) - lo, 128)
        values = np.full(side, clicks.value_of(clicks.prompts[-1]), np.uint8)
        yield Prediction(tuple(int(n) for n in lo), values)


class Part(Strategy):
    """The image and the part of it that stand in a file."""

    def __init__(self, file):
        super().__init__("A part of an image")
        self.file = file

    def __call__(self, request, datastore):
        return json.loads(self.file.read_text()) if self.file.exists() else None


def drawn(prompt, shape):
    """(lo, hi, inside) of a prompt on an image of `shape`."""
    if prompt.mask is not None:
        return np.array(prompt.mask.lo), np.array(prompt.mask.hi), prompt.mask.voxels
    points = np.rint(prompt.points).astype(int)
    if prompt.kind is PromptKind.BOX:
        lo, hi = points.min(axis=0), points.max(axis=0) + 1
        return lo, hi, np.ones(hi - lo, bool)
    lo, hi = np.maximum(points.min(axis=0) - RADIUS, 0), np.minimum(points.max(axis=0) + RADIUS + 1, shape)
    grid = np.indices(hi - lo)
    inside = np.zeros(hi - lo, bool)
    for point in points:
        away = sum((axis - c) ** 2 for axis, c in zip(grid, point - lo))
        inside |= away <= RADIUS**2
    return lo, hi, inside


class PageApp(LabelApp):
    def __init__(self, app_dir, studies, conf):
        self.model_dir = Path(app_dir) / "model"
        super().__init__(app_dir, studies, conf, name="Page", description="For tests of the page", labels=list(LABELS))

    def network(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return UNet(3, 1, 1 + len(LABELS), (8, 16), (2,), norm="INSTANCE")

    def options(self):
        return {"spacing_mm": (6.0, 6.0, 6.0), "roi_size": (32, 32, 32), "intensity_window": (-160.0, 240.0)}

    def init_infers(self):
        paths = [str(self.model_dir / "organs.pt")]
        organs = SegmentationInfer(paths, self.network(), LABELS, description="Finds organs", **self.options())
        return {"paint": Paint(Path(self.app_dir)), "cube": Cube(), "organs": organs}

    def init_trainers(self):
        published = str(self.model_dir / "organs.pt")
        folder = self.model_dir / "organs"
        short = {"steps_per_epoch": 2, "patches_per_case": 2}  # epochs of a second
        return {
            "organs": SegmentationTrain(
                folder, self.network(), LABELS, publish_path=published, config=short, **self.options()
            )
        }

    def init_strategies(self):
        return {"first": First(), "random": Random(), "part": Part(Path(self.app_dir) / "part.json")}

    def init_scoring_methods(self):
        return {"sum": Sum()}
