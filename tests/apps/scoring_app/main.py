"""An app for scoring: a tiny network looks at images, and writes down at which.

Where a test puts a named pipe ``gates/step`` or ``gates/click``, the next step or click is held until the pipe is
opened for writing and closed; ``<gate>.reached`` then says how many looks there were before.
"""

import time
from pathlib import Path

import numpy as np
import torch
from labelserver import LabelApp
from labelserver.domain.prompts import PromptKind
from labelserver.tasks.interactive import InteractiveTask, Prediction
from labelserver.tasks.planned import learning_strategies
from labelserver.tasks.pool_scoring import PoolScoring
from labelserver.tasks.segmentation import SegmentationInfer
from monai.networks.nets import UNet

STEP_S = 0.02


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet(3, 1, 2, channels=(4, 8), strides=(2,), norm="INSTANCE", dropout=0.2)


def pass_gate(home, name):
    gate, notes = home / "gates" / name, home / "notes"
    if gate.exists():
        (home / "gates" / f"{name}.reached").write_text(str(len(notes.read_text().splitlines())))
        gate.read_bytes()


class Dot(InteractiveTask):
    """Marks the voxel that was clicked"""

    prompt_kinds = frozenset({PromptKind.POINT})

    def __init__(self, home):
        super().__init__("deepgrow", {"dot": 1}, 3, "Marks the voxel that was clicked")
        self.home = home

    def predict(self, prepared, clicks):
        pass_gate(self.home, "click")
        yield Prediction(tuple(int(v) for v in clicks.prompts[-1].points[0]), np.ones((1, 1, 1), np.uint8))


class Looks(PoolScoring):
    """Looks, and writes down at which image and when"""

    def look(self, image_id, version, request, datastore):
        pass_gate(Path(self.notes).parent, "step")
        found = super().look(image_id, version, request, datastore)
        time.sleep(STEP_S)
        with (Path(self.notes)).open("a") as stream:
            stream.write(f"{version} {image_id}\n")
        return found


class App(LabelApp):
    def __init__(self, app_dir, studies, conf):
        self.home = Path(app_dir)
        self.weights = self.home / "model" / "seg.pt"
        if not self.weights.exists():
            self.weights.parent.mkdir(exist_ok=True)
            torch.save({"model": network().state_dict()}, self.weights)
        super().__init__(app_dir, studies, conf, name="Scoring", labels=["organ"])

    def seg(self, sampling):
        return SegmentationInfer(
            self.weights,
            network(),
            ["organ"],
            spacing_mm=(1, 1, 1),
            roi_size=(8, 8, 8),
            intensity_window=(0, 255),
            train_mode=sampling,
            skip_writer=sampling,
        )

    def init_infers(self):
        return {"seg": self.seg(False), "dot": Dot(self.home)}

    def init_strategies(self):
        return learning_strategies()

    def init_scoring_methods(self):
        looks = Looks(self.seg(True), "seg", looks=2)
        looks.notes = str(self.home / "notes")
        return {"looks": looks}
