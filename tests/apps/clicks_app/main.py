"""An app for tests of interactive sessions: balls round clicks, in the new style and in the old one, and slow work."""

import time
from pathlib import Path

import numpy as np
from monai.transforms import EnsureChannelFirstd, LoadImaged, Transform

from labelserver import BasicInferTask, LabelApp
from labelserver.contracts.progress import current_progress
from labelserver.domain.prompts import PromptKind
from labelserver.tasks import prompted_images
from labelserver.tasks.base import InferTask
from labelserver.tasks.interactive import InteractiveTask, Prediction, painted
from labelserver.tasks.transforms.restoring import Restored

RADIUS = 4


def ball(shape, center):
    """(lo, inside) of a ball round `center`, clipped to `shape`."""
    center = np.rint(center).astype(int)
    lo, hi = np.maximum(center - RADIUS, 0), np.minimum(center + RADIUS + 1, shape)
    axes = np.indices(hi - lo)
    away = sum((axis - c) ** 2 for axis, c in zip(axes, center - lo, strict=True))
    return tuple(int(v) for v in lo), away <= RADIUS**2


class Ball(InteractiveTask):
    """Paints a ball round the newest prompt; shows its bounding cube first."""

    prompt_kinds = frozenset({PromptKind.POINT, PromptKind.SCRIBBLE, PromptKind.BOX})

    def __init__(self, notes):
        super().__init__("deepgrow", {"ball": 1, "other": 2}, 3, "Paints balls")
        self.notes = notes

    def prepare(self, image):
        with self.notes.open("a") as stream:
            stream.write("prepare\n")
        return image.voxels.shape[:3]

    def predict(self, prepared, clicks):
        new = clicks.prompts[len(clicks.prompts) - clicks.new :] or clicks.prompts[-1:]
        found = [(prompt, *ball(prepared, prompt.points.mean(axis=0))) for prompt in new]
        prompt, lo, inside = found[-1]
        yield Prediction(lo, painted(clicks.mask, lo, np.ones_like(inside), clicks.value_of(prompt)), final=False)
        first = np.min([lo for _, lo, _ in found], axis=0)
        end = np.max([np.add(lo, inside.shape) for _, lo, inside in found], axis=0)
        box = np.array(clicks.mask[tuple(slice(a, b) for a, b in zip(first, end, strict=True))])
        for prompt, lo, inside in found:
            start = tuple(int(v) for v in np.subtract(lo, first))
            value = clicks.value_of(prompt)
            before = box[tuple(slice(a, a + n) for a, n in zip(start, inside.shape, strict=True))] == value
            after = before | inside if prompt.positive else before & ~inside
            painted_box = painted(box, start, after, value)
            box[tuple(slice(a, a + n) for a, n in zip(start, inside.shape, strict=True))] = painted_box
        yield Prediction(tuple(int(v) for v in first), box)


class Slow(Ball):
    """Hangs for ever on the label "other" without looking at anything."""

    def predict(self, prepared, clicks):
        if clicks.prompts[-1].label == "other":
            time.sleep(10_000)
        yield from super().predict(prepared, clicks)


class Local(InteractiveTask):
    """Answers a box of fixed size with a ball: no work worth mentioning."""

    prompt_kinds = frozenset({PromptKind.POINT})

    def predict(self, prepared, clicks):
        lo = tuple(int(max(0, round(v) - 48)) for v in clicks.prompts[-1].points[0])
        yield Prediction(lo, self.inside)

    def __init__(self):
        super().__init__("deepgrow", {"ball": 1}, 3, "Answers 96 x 96 x 96 voxels")
        axes = np.indices((96, 96, 96)) - 48
        self.inside = ((axes**2).sum(axis=0) <= 40**2).astype(np.uint8)


class Busy(Local):
    """As `Local`, after 50 ms of work."""

    def predict(self, prepared, clicks):
        time.sleep(0.05)
        yield from super().predict(prepared, clicks)


class Balls(Transform):
    """Old style: a ball for each click of ``foreground``, minus one for each of ``background``."""

    def __call__(self, data):
        data = dict(data)
        shape = data["image"].shape[1:]
        pred = np.zeros(shape, np.uint8)
        for key, value in (("foreground", 1), ("background", 0)):
            for point in data.get(key) or []:
                lo, inside = ball(shape, np.asarray(point, float))
                box = tuple(slice(a, a + n) for a, n in zip(lo, inside.shape, strict=True))
                pred[box][inside] = value
        data["pred"] = pred[None]
        return data


class OldBall(BasicInferTask):
    """Old style, as apps for MONAI Label are written."""

    def __init__(self):
        super().__init__(None, None, type="deepgrow", labels={"ball": 1}, dimension=3, description="Old balls")

    def is_valid(self):
        return True

    def pre_transforms(self, data=None):
        return [LoadImaged("image"), EnsureChannelFirstd("image")]

    def run_inferer(self, data, convert_to_batch=True, device="cpu"):
        return Balls()(data)

    def post_transforms(self, data=None):
        return [Restored("pred", ref_image="image")]


class Long(InferTask):
    """Takes `seconds`; with `deaf` in one piece, else looking now and then whether it should stop."""

    def __init__(self):
        super().__init__("segmentation", {"ball": 1}, 3, "Takes long")

    def is_valid(self):
        return True

    def __call__(self, request):
        until = time.monotonic() + float(request.get("seconds", 30))
        while time.monotonic() < until and not (not request.get("deaf") and current_progress().should_stop()):
            time.sleep(0.01)
        return None, {"result": "done"}


class App(LabelApp):
    def __init__(self, app_dir, studies, conf):
        self.notes = Path(app_dir) / "notes"
        decode = prompted_images.read_volume

        def counted(path):
            with self.notes.open("a") as stream:
                stream.write("decode\n")
            return decode(path)

        prompted_images.read_volume = counted
        super().__init__(app_dir, studies, conf, name="Clicks", labels=["ball", "other"])

    def init_infers(self):
        return {
            "ball": Ball(self.notes),
            "slow": Slow(self.notes),
            "local": Local(),
            "busy": Busy(),
            "old": OldBall(),
            "long": Long(),
        }
