"""Training of a click network: any label, and any connected part of one, is a target that a simulated user clicks at.

One step is an episode: patches with a target each, a first prompt, an answer, a prompt where the answer is most wrong,
and so on; after each answer the network takes a gradient step, and its own answer is the previous mask of the next. So
it learns from the mistakes it makes, and no forward pass is spent on simulation alone.

Held-out cases are judged by the same simulated user on whole images, through the same windows as in use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from ignite.metrics import Metric
from monai.handlers import LrScheduleHandler
from monai.transforms import MapTransform
from numpy.typing import NDArray

from labelserver.contracts.progress import current_progress
from labelserver.domain.geometry import Grid
from labelserver.domain.prompts import Prompt
from labelserver.domain.schema import NOT_ANNOTATED, channels_of_values
from labelserver.tasks import train_request as asked
from labelserver.tasks.auto_zoom import Scene, answered
from labelserver.tasks.base import Labels, numbered_labels
from labelserver.tasks.click3d import ClickEngine, Draw, intensity_range
from labelserver.tasks.click_channels import drawn
from labelserver.tasks.click_episodes import Episode
from labelserver.tasks.click_patches import FindTargetsd, TargetPatchesd
from labelserver.tasks.click_simulator import SimulatedUser
from labelserver.tasks.segmentation_train import OnlyKnownLabelsd
from labelserver.tasks.train import BasicTrainTask, Context, Transforms
from labelserver.tasks.train_labels import is_partly_annotated
from labelserver.tasks.transforms import LoadVolumed
from labelserver.tasks.transforms.annotated import LoadAnnotatedd

_BOTH = ("image", "label")
#: Dice that the clicks of the third metric are counted to
_ENOUGH = 0.85


class Click3dTrain(BasicTrainTask):
    """Training of a click network on all accepted labels, by a simulated user"""

    reads_stored_values = True
    #: Dice after the last click of a simulated user, mean over targets: decides between versions.
    KEY_METRIC: ClassVar[str] = "val_dice_last_click"
    #: how prompts become channels
    draw: ClassVar[Draw] = staticmethod(drawn)

    def __init__(
        self,
        model_dir: str | Path,
        network: torch.nn.Module,
        labels: Labels,
        *,
        roi: int = 48,
        intensity_window: tuple[float, float] | None = None,
        spacing_mm: float | None = None,
        load_path: str | Sequence[str] | None = None,
        publish_path: str | None = None,
        description: str = "",
        config: Mapping[str, Any] | None = None,
        val_interval: int = 4,
        **options: Any,
    ) -> None:
        """Describe what the network learns; `Click3d` takes the same values.

        It continues from the published weights, which fits it to the labels that a project accepted since. The
        options that this class adds to the request, with defaults:

        - ``learning_rate`` 0.004, falling along a cosine; a third of it when it starts from weights;
        - ``patches_per_case`` 2: targets of one image, together one episode (times ``train_batch_size``);
        - ``clicks`` 4: prompts, answers and gradient steps of an episode, at most;
        - ``steps_per_epoch`` 60 episodes, ``max_epochs`` 16;
        - ``val_clicks`` 5: prompts that a held-out target gets, ``val_targets`` 4: targets of an image.

        Args:
            model_dir: folder of the run folders, below the app.
            network: as `click3d.click_network` makes it.
            labels: names in order, or name -> value.
            roi: voxels a side of a patch.
            intensity_window: intensities that become -1 and 1; None: each image's own range.
            spacing_mm: voxel size of the closest window; None: each image's finest.
            load_path: weights to start from.
            publish_path: the file that infer tasks read.
            description: for people.
            config: options with their defaults.
            val_interval: epochs between two validations.
            options: further arguments of `BasicTrainTask`.
        """
        ordered = sorted(numbered_labels(labels).items(), key=lambda item: item[1])
        self._names = [name for name, value in ordered if value > 0]
        defaults = {
            "max_epochs": 16,
            "learning_rate": 4e-3,
            "patches_per_case": 2,
            "clicks": 4,
            "steps_per_epoch": 60,
            "val_clicks": 5,
            "val_targets": 4,
        }
        super().__init__(
            model_dir,
            description=description or None,
            config={**defaults, **(config or {})},
            load_path=load_path,
            publish_path=publish_path,
            labels={name: value for value, name in enumerate(self._names, start=1)},
            network=network,
            val_interval=val_interval,
            **options,
        )
        self.roi = roi
        self.intensity_window = intensity_window
        self.spacing_mm = spacing_mm

    def optimizer(self, context: Context) -> torch.optim.Optimizer:
        rate = asked.positive(context.request, "learning_rate", 4e-3)
        continued = self.load_path(context.output_dir, context.pretrained) is not None
        return torch.optim.AdamW(context.network.parameters(), lr=rate / 3 if continued else rate, weight_decay=1e-4)

    def lr_scheduler_handler(self, context: Context) -> Any:
        scheduler = torch.optim.lr_scheduler.LambdaLR(context.optimizer, _Falling(context.max_epochs))
        return LrScheduleHandler(lr_scheduler=scheduler, print_lr=False)

    def loss_function(self, context: Context) -> Callable[..., Any]:
        return ClickLoss()

    def _fixed_transforms(self, context: Context) -> list[Any]:
        channels = channels_of_values(self._names, context.label_values)
        partly = is_partly_annotated(context)
        return [
            LoadVolumed(keys=_BOTH),
            *([LoadAnnotatedd("label", len(self._names) + 1, channels)] if partly else []),
            OnlyKnownLabelsd(keys="label", largest=len(self._names), channels=channels, keep_unknown=partly),
            AsVolumed(_BOTH, self.intensity_window),
            FindTargetsd("label"),
        ]

    def train_pre_transforms(self, context: Context) -> Transforms:
        count = asked.whole_number(context.request, "patches_per_case", 2, least=1)
        return [
            *self._fixed_transforms(context),
            TargetPatchesd(self.roi, count, spacing_mm=self.spacing_mm),
        ]

    def val_pre_transforms(self, context: Context) -> Transforms:
        return self._fixed_transforms(context)

    def train_data_loader(self, context: Context, num_workers: int = 0, shuffle: bool = True) -> Any:
        dataset = self._dataset(context, context.train_datalist, is_train=True)
        wanted = asked.whole_number(context.request, "steps_per_epoch", 60, least=1) * context.train_batch_size
        repeats = math.ceil(wanted / max(1, len(dataset)))
        return self._dataloader(context, dataset, context.train_batch_size, num_workers, shuffle, repeats)

    def train_iteration_update(self, context: Context) -> Callable[..., Any]:
        clicks = asked.whole_number(context.request, "clicks", 4, least=1)
        return _Episodes(clicks, type(self).draw)

    def val_iteration_update(self, context: Context) -> Callable[..., Any]:
        clicks = asked.whole_number(context.request, "val_clicks", 5, least=1)
        targets = asked.whole_number(context.request, "val_targets", 4, least=1)
        return _Judge(self.roi, self.spacing_mm, clicks, targets, type(self).draw)

    def train_key_metric(self, context: Context) -> dict[str, Any] | None:
        """Without held-out cases, Dice of the last answers of the episodes."""
        return {"train_dice_last_click": _MeanOf("dice_last_click")} if context.evaluator is None else None

    def val_key_metric(self, context: Context) -> dict[str, Any]:
        return {self.KEY_METRIC: _MeanOf("dice_last_click")}

    def val_additional_metrics(self, context: Context) -> dict[str, Any]:
        return {"val_dice_first_click": _MeanOf("dice_first_click"), "val_clicks_to_85": _MeanOf("clicks_to_85")}

    def train_post_transforms(self, context: Context) -> Transforms:
        """None: the step gives numbers, no masks."""
        return None

    def val_post_transforms(self, context: Context) -> Transforms:
        return None


class AsVolumed(MapTransform):
    """(1, I, J, K) tensors to (I, J, K) arrays, the image's range under ``range`` and its grid under ``grid``."""

    def __init__(self, keys: Any, window: tuple[float, float] | None) -> None:
        super().__init__(keys)
        self._window = window

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        found = dict(data)
        image = found["image"]
        # A picture is (channels, I, J), a volume (1, I, J, K).
        arrays = {key: np.asarray(found[key]) for key in self.keys}
        volume = arrays["image"].mean(axis=0) if arrays["image"].shape[0] > 1 else arrays["image"][0]
        label = arrays["label"][0].astype(np.uint8)
        found["image"] = np.atleast_3d(volume).astype(np.float32)
        found["label"] = np.atleast_3d(label)
        found["range"] = np.asarray(intensity_range(found["image"], self._window))
        affine = np.eye(4)
        given = np.asarray(image.affine, dtype=np.float64)
        affine[: given.shape[0], : given.shape[1]] = given
        found["affine"] = affine
        return found


class ClickLoss(torch.nn.Module):
    """Soft Dice of each patch plus cross entropy, both over annotated voxels alone."""

    def forward(self, scores: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """`scores` (B, 1, ...) of the network; `truth` (B, 1, ...) 0 or 1, 255 where nobody looked."""
        known = (truth != NOT_ANNOTATED).float()
        target = (truth == 1).float()
        scores = scores.float()
        crossed = torch.nn.functional.binary_cross_entropy_with_logits(scores, target, weight=known, reduction="sum")
        answer = torch.sigmoid(scores) * known
        axes = tuple(range(1, scores.ndim))
        shared, sizes = (answer * target).sum(axes), answer.sum(axes) + (target * known).sum(axes)
        dice = 1 - (2 * shared + 1) / (sizes + 1)
        return dice.mean() + crossed / known.sum().clamp(min=1)


class _Falling:
    """Factor of the learning rate by epoch: half in the first, then a cosine to a fiftieth."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs

    def __call__(self, epoch: int) -> float:
        if epoch == 0 and self._epochs > 1:
            return 0.5
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, epoch / max(1, self._epochs))))


class _Episodes:
    """A training step: see the module's words."""

    def __init__(self, clicks: int, draw: Draw) -> None:
        self._clicks, self._draw = clicks, draw

    def __call__(self, engine: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        images, truths = batch["image"][:, 0].numpy(), batch["label"][:, 0].numpy()
        device = engine.state.device
        # numpy's global generator was seeded from (seed, step) before this step.
        random = np.random.default_rng(np.random.randint(2**31))
        episodes = [Episode(image, truth, random, self._draw) for image, truth in zip(images, truths, strict=True)]
        truth = torch.from_numpy(truths)[:, None].to(device)
        losses = []
        engine.network.train()
        for _ in range(int(random.integers(1, self._clicks + 1))):
            channels = np.stack([episode.next_channels() for episode in episodes])
            inputs = torch.from_numpy(channels).to(device, memory_format=torch.channels_last_3d)
            engine.optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, enabled=bool(engine.amp)):
                scores = engine.network(inputs)
                loss = engine.loss_function(scores, truth)
            _step(engine, loss)
            losses.append(loss.detach())
            for episode, answer in zip(episodes, torch.sigmoid(scores.detach().float()).cpu().numpy(), strict=True):
                episode.take(answer[0])
        dice = float(np.mean([episode.dice() for episode in episodes]))
        return {"loss": torch.stack(losses).mean(), "dice_last_click": [dice]}


def _step(engine: Any, loss: torch.Tensor) -> None:
    """Backward pass and update, with the engine's loss scaling where it has one. Gradients are cut at norm 5."""
    parameters = [p for group in engine.optimizer.param_groups for p in group["params"]]
    if engine.amp and engine.scaler is not None:
        engine.scaler.scale(loss).backward()
        engine.scaler.unscale_(engine.optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        engine.scaler.step(engine.optimizer)
        engine.scaler.update()
        return
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 5.0)
    engine.optimizer.step()


class _Judge:
    """A validation step: the simulated user clicks at each label of a held-out image."""

    def __init__(self, roi: int, spacing_mm: float | None, clicks: int, targets: int, draw: Draw) -> None:
        self._roi, self._spacing_mm, self._draw = roi, spacing_mm, draw
        self._clicks, self._targets = clicks, targets

    def __call__(self, engine: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        engine.network.eval()
        image, label = batch["image"][0].numpy(), batch["label"][0].numpy()
        low, high = (float(value) for value in batch["range"][0])
        grid = Grid(image.shape, batch["affine"][0].numpy())
        clicker = ClickEngine(
            engine.network, self._roi, low, high, grid.affine, str(engine.state.device), draw=self._draw
        )
        curves = []
        for value in _largest_values(label, self._targets):
            if current_progress().should_stop():
                break
            curves.append(click_curve(clicker, image, grid, label, value, self._clicks, self._spacing_mm))
        return {
            "dice_first_click": [curve[0] for curve in curves],
            "dice_last_click": [curve[-1] for curve in curves],
            "clicks_to_85": [_clicks_to(curve, _ENOUGH) for curve in curves],
        }


def click_curve(
    engine: ClickEngine,
    image: NDArray[np.generic],
    grid: Grid,
    label: NDArray[np.uint8],
    value: int,
    clicks: int,
    spacing_mm: float | None = None,
) -> list[float]:
    """Dice after each of `clicks` simulated clicks at the label `value`; perfect masks stay as they are."""
    known = label != NOT_ANNOTATED
    truth = label == value
    mask = np.zeros(label.shape, dtype=np.uint8)
    user, prompts, curve = SimulatedUser(), list[tuple[Prompt, bool]](), list[float]()
    for _ in range(clicks):
        prompt = user.next_prompt((mask == 1) & known, truth)
        if prompt is not None:
            prompts.append((prompt, prompt.positive))
            for found in answered(engine, Scene(image, grid, prompts, 1, spacing_mm), mask, 1):
                if found.final:
                    box = tuple(slice(a, a + n) for a, n in zip(found.lo, found.inside.shape, strict=True))
                    mask[box] = found.inside
        answer = (mask == 1) & known
        curve.append(2 * float((answer & truth).sum()) / max(1.0, float(answer.sum() + truth.sum())))
    return curve


def _largest_values(label: NDArray[np.uint8], count: int) -> list[int]:
    """The labels of an image with most voxels; so a schema of a hundred labels does not make a validation endless."""
    sizes = np.bincount(label.ravel(), minlength=256)
    sizes[[0, NOT_ANNOTATED]] = 0
    order = np.argsort(-sizes, kind="stable")[:count]
    return sorted(int(value) for value in order if sizes[value])


def _clicks_to(curve: Sequence[float], dice: float) -> int:
    """Number of clicks until `dice`; one more than were made if never."""
    return next((number for number, value in enumerate(curve, start=1) if value >= dice), len(curve) + 1)


class _MeanOf(Metric):
    """Mean of the numbers under one key of the steps' outputs."""

    def __init__(self, key: str) -> None:
        self._sum, self._count = 0.0, 0
        super().__init__(output_transform=lambda output: output[key])

    def reset(self) -> None:
        self._sum, self._count = 0.0, 0

    def update(self, output: Sequence[float]) -> None:
        self._sum += float(np.sum(output))
        self._count += len(output)

    def compute(self) -> float:
        return self._sum / self._count if self._count else math.nan
