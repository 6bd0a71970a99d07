"""Models that answer prompts: `ball` paints one where it was clicked, `seeds` needs no weights, `click3d` has random ones."""

from pathlib import Path

import numpy as np
import torch

from labelserver import LabelApp
from labelserver.domain.prompts import PromptKind
from labelserver.tasks.click3d import Click3d, click_network
from labelserver.tasks.interactive import InteractiveTask, Prediction, painted
from labelserver.tasks.seeds import Seeds


class Ball(InteractiveTask):
    """Paints a ball of radius 4 where it was clicked, or wipes it."""

    prompt_kinds = frozenset({PromptKind.POINT})

    def __init__(self):
        super().__init__("deepgrow", {"object": 1}, 3)

    def predict(self, prepared, clicks):
        prompt = clicks.prompts[-1]
        center = np.rint(prompt.points[0]).astype(int)
        shape = np.array(clicks.mask.shape)
        lo, hi = np.maximum(center - 4, 0), np.minimum(center + 5, shape)
        grid = np.meshgrid(*[np.arange(a, b) for a, b in zip(lo, hi)], indexing="ij")
        ball = sum((axis - c) ** 2 for axis, c in zip(grid, center)) <= 16
        before = clicks.mask[tuple(slice(a, b) for a, b in zip(lo, hi))] == 1
        inside = before | ball if prompt.positive else before & ~ball
        corner = tuple(int(n) for n in lo)
        yield Prediction(corner, painted(clicks.mask, corner, inside, 1))


class DrawingApp(LabelApp):
    def __init__(self, app_dir, studies, conf):
        super().__init__(app_dir=app_dir, studies=studies, conf=conf, name="Drawing", description="Answers prompts")

    def init_infers(self):
        network = click_network((8, 8, 8, 8))
        weights = Path(self.app_dir) / "model" / "click3d.pt"
        if not weights.exists():
            weights.parent.mkdir(exist_ok=True)
            torch.save({"model": network.state_dict()}, weights)
        labels = {"object": 1, "other": 2}
        return {"ball": Ball(), "seeds": Seeds(labels, roi=32), "click3d": Click3d(str(weights), network, labels, roi=32)}
