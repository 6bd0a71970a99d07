"""A task's own way from a file to a label map as configuration: its transforms, its inferer, and what the server adds.

Transforms of MONAI and of the app are written as they are. Those of this package are replaced by MONAI's where MONAI
has an equal one, and shipped as code beside it, because the server's arithmetic differs from MONAI's by rounding: both
stand in the list, and the item ``exact`` chooses (true where the package ``scripts`` of this export is found).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from monai.inferers import SlidingWindowInferer
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    SaveImaged,
)

from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.export.carrying import CarriedCode
from labelserver.export.configuring import CannotWrite, Configuration
from labelserver.export.contents import SCRIPTS
from labelserver.export.recording import Recording, recorded
from labelserver.export.steps import AnswerOnImaged, InvertChosend, LabelsAtOnced
from labelserver.tasks.bundle_infer import BundleInferTask
from labelserver.tasks.fast_post import recognised_rule
from labelserver.tasks.fast_spacing import SeparableSpacingd
from labelserver.tasks.faster import faster
from labelserver.tasks.hooks import call_hook
from labelserver.tasks.infer import BasicInferTask
from labelserver.tasks.inverting import Names, chosen_for_inversion
from labelserver.tasks.transform_runs import listed
from labelserver.tasks.transforms import (
    ArgmaxOnOriginalGridd,
    CacheTransformDatad,
    LoadImageTensord,
    LoadVolumed,
    Restored,
)

_EXACT, _PORTABLE = "$not @exact", "$@exact"  #: when an item of that kind is disabled
_PREPROCESSING = "@preprocessing"
#: the smallest number above 0 in float32: a threshold at which ``>=`` means ``> 0``
_ABOVE_ZERO = float(np.nextafter(np.float32(0), np.float32(1)))


@dataclass(slots=True)
class TaskConfig:
    """What of ``inference.json`` is the task's own."""

    preprocessing: JsonObject
    inferer: JsonValue
    postprocessing: JsonObject
    extra: JsonObject = field(default_factory=dict)  #: further items that the inferer refers to
    imports: list[str] = field(default_factory=list)
    needs_scripts: bool = False
    window: tuple[int, ...] = ()
    window_batch: int = 1
    overlap: float = 0.0

    def items(self, *, scripts: bool) -> JsonObject:
        """The items of a configuration. `scripts`: a package of code comes along."""
        lines: list[JsonValue] = ["$from importlib.util import find_spec", *[f"${line}" for line in self.imports]]
        found = f"$find_spec('{SCRIPTS}') is not None"
        return {
            "imports": lines,
            "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
            "exact": found if scripts and not self.needs_scripts else bool(scripts),
            "preprocessing": self.preprocessing,
            **self.extra,
            "inferer": self.inferer,
            "postprocessing": self.postprocessing,
        }


class TaskWriter:
    """Writes one task. Hooks are called with `data` as the server does, while recording."""

    def __init__(self, task: BasicInferTask, recording: Recording, code: CarriedCode) -> None:
        self._task = task
        self._configuration = Configuration(recording, code)
        self._recording = recording
        self._code = code
        self._needs_scripts = False
        self.in_channels = 0  #: of the network; known after `write`
        self.out_channels = 0

    def write(self, request: dict[str, Any]) -> TaskConfig:
        """Answer `request` step by step as the server does, and write down each step.

        Raises:
            CannotWrite: a transform has no form as configuration; names it and says what to do.
        """
        task = self._task
        if isinstance(task, BundleInferTask):
            task.forget_parsed()  # so that its parts are built where it is seen
        data: Any = task._request_data(request)
        with recorded(self._recording):
            steps = listed(call_hook(task.pre_transforms, data))
        pre = [step for step in steps if not isinstance(step, CacheTransformDatad)]
        config = TaskConfig(_compose(self._preprocessing(pre)), None, {})
        data = task.run_pre_transforms(data, steps)
        with recorded(self._recording):
            inferer = call_hook(task.inferer, data)
        self._inferer(inferer, data, config)
        self.in_channels = int(data[task.input_key].shape[0])
        data = task.run_inferer(data, device=data["device"])
        self.out_channels = int(data[task.output_label_key].shape[0])
        with recorded(self._recording):
            names = call_hook(task.inverse_transforms, data)
            post = listed(call_hook(task.post_transforms, data))
        post = [step for step in post if not isinstance(step, SaveImaged)]
        config.postprocessing = _compose(self._postprocessing(pre, names, post, data))
        config.imports = sorted(self._configuration.imports)
        parts = (config.preprocessing, config.inferer, config.postprocessing)
        shipped = any(line.startswith(f"from {SCRIPTS}.") for line in config.imports)
        config.needs_scripts = self._needs_scripts or shipped or any(_needs_code(part) for part in parts)
        return config

    # Before the network.

    def _preprocessing(self, steps: Sequence[Any]) -> list[JsonValue]:
        key = self._task.input_key
        if not steps or not isinstance(_unwrapped(steps[0]), LoadImaged | LoadVolumed):
            first = type(steps[0]).__name__ if steps else "nothing"
            raise CannotWrite(
                f"The first pre transform is {first}, which does not load the image. "
                f"Begin with LoadImaged(keys='{key}')."
            )
        written = self._loading(_unwrapped(steps[0]), steps)
        for step in steps[1:]:
            if type(step) is EnsureChannelFirstd:
                continue  # stands second already
            quick = faster(step)
            if isinstance(quick, SeparableSpacingd):
                plain = self._step(step)
                written.append(self._exact(SeparableSpacingd, {"original": self._step(step)}))
                written.append(_disabled(plain, _PORTABLE))
            else:
                written.append(self._step(step))
        return written

    def _loading(self, step: Any, steps: Sequence[Any]) -> list[JsonValue]:
        """`LoadImaged` and `EnsureChannelFirstd`, whatever the app loads with."""
        keys: JsonValue = [str(key) for key in step.keys]
        loader: JsonObject = {"_target_": "monai.transforms.LoadImaged", "keys": keys}
        if not isinstance(step, LoadVolumed):
            own = self._recording.of(step)
            named = dict(own.named) if own is not None else {}
            kept = {n: named[n] for n in ("reader", "dtype") if named.get(n) is not None}
            loader |= {n: self._configuration.value(part, f"LoadImaged, argument {n}") for n, part in kept.items()}
        channels: JsonObject = {"_target_": "monai.transforms.EnsureChannelFirstd", "keys": keys}
        for other in steps:
            if type(other) is EnsureChannelFirstd:
                written = self._step(other)
                channels = written if isinstance(written, dict) else channels
        return [loader, channels]

    # The network.

    def _inferer(self, inferer: Any, data: dict[str, Any], config: TaskConfig) -> None:
        own = type(self._task).inferer is not BasicInferTask.inferer
        roi_size = self._task.roi_size
        if not own and roi_size:
            self._window_if_larger([int(size) for size in roi_size], data, config)
            return
        if isinstance(inferer, SlidingWindowInferer):
            config.window = tuple(int(size) for size in np.atleast_1d(inferer.roi_size))
            config.window_batch = int(inferer.sw_batch_size)
            config.overlap = float(np.atleast_1d(inferer.overlap)[0])
        config.inferer = self._configuration.component(inferer, f"The inferer {type(inferer).__name__}")

    def _window_if_larger(self, roi_size: list[int], data: Mapping[str, Any], config: TaskConfig) -> None:
        """As `BasicInferTask.inferer`: windows if the image is larger along some axis, else one pass."""
        batch, overlap = int(data.get("sw_batch_size", 1)), float(data.get("sw_overlap", 0.25))
        config.window, config.window_batch, config.overlap = tuple(roi_size), batch, overlap
        config.extra = {
            "window": {
                "_target_": "monai.inferers.SlidingWindowInferer",
                "roi_size": [*roi_size],
                "sw_batch_size": batch,
                "overlap": overlap,
            },
            "whole": {"_target_": "monai.inferers.SimpleInferer"},
        }
        larger = "any(n > w > 0 for n, w in zip(inputs.shape[2:], @window.roi_size))".replace(
            "@window.roi_size", repr(tuple(roi_size))
        )
        config.inferer = (
            f"$lambda inputs, network, *args, **kwargs: "
            f"(@window if {larger} else @whole)(inputs, network, *args, **kwargs)"
        )

    # After the network.

    def _postprocessing(
        self, pre: Sequence[Any], names: Names, post: Sequence[Any], data: dict[str, Any]
    ) -> list[JsonValue]:
        task = self._task
        key, image = task.output_label_key, task.input_key
        written: list[JsonValue] = []
        at_once = recognised_rule(data[key], data[image], image, list(pre), names, post, key)
        inverts = any(isinstance(step, Invertd) for step in post) or names is not None
        if at_once is not None:
            rule, length = at_once
            plain = [self._step(step) for step in post[:length]]
            long_way = [*self._inversion(names, data, pre, exact_only=True), *[self._step(s) for s in post[:length]]]
            arguments: JsonObject = {
                "keys": key,
                "ref_image": image,
                "transform": _PREPROCESSING,
                "names": None if names is None else list(_class_names(names, pre, data[image], image)),
                "from_logit": rule.from_logit,
                "otherwise": long_way,
            }
            written.append(self._exact(LabelsAtOnced, arguments))
            written += [_disabled(step, _PORTABLE) for step in self._portable_inversion(names, data, pre)]
            written += [_disabled(step, _PORTABLE) for step in plain]
            post = post[length:]
        else:
            written += self._inversion(names, data, pre)
        for step in post:
            written += self._post_step(step, data, pre, inverts=inverts)
        written.append(self._exact(AnswerOnImaged, {"keys": key, "ref_image": image}))
        return written

    def _inversion(
        self, names: Names, data: Mapping[str, Any], pre: Sequence[Any], *, exact_only: bool = False
    ) -> list[JsonValue]:
        if names is None:
            return []
        key, image = self._task.output_label_key, self._task.input_key
        arguments: JsonObject = {
            "keys": key,
            "ref_image": image,
            "transform": _PREPROCESSING,
            "names": list(_class_names(names, pre, data[image], image)),
        }
        exact: list[JsonValue] = [self._exact(InvertChosend, arguments)]
        if exact_only:
            return exact
        return [*exact, *[_disabled(step, _PORTABLE) for step in self._portable_inversion(names, data, pre)]]

    def _portable_inversion(self, names: Names, data: Mapping[str, Any], pre: Sequence[Any]) -> list[JsonValue]:
        """MONAI's `Invertd`, which inverts all; without an equal one, nothing may stand in for the server's code."""
        if names is None:
            return []
        key, image = self._task.output_label_key, self._task.input_key
        chosen, _ = chosen_for_inversion(data[image], image, list(pre), names)
        everything, _ = chosen_for_inversion(data[image], image, list(pre), ())
        if len(chosen) != len(everything):
            self._needs_scripts = True
            return []
        return [_inverted(key, image)]

    def _post_step(self, step: Any, data: Mapping[str, Any], pre: Sequence[Any], *, inverts: bool) -> list[JsonValue]:
        key, image = self._task.output_label_key, self._task.input_key
        if isinstance(step, ArgmaxOnOriginalGridd):
            exact = self._exact(ArgmaxOnOriginalGridd, {"keys": key, "ref_image": image})
            single = data[key].shape[0] == 1
            labels: JsonObject = {"_target_": "monai.transforms.AsDiscreted", "keys": key}
            labels |= {"threshold": _ABOVE_ZERO} if single else {"argmax": True}
            return [exact, _disabled(_inverted(key, image), _PORTABLE), _disabled(labels, _PORTABLE)]
        if type(step) is Restored:
            return self._restored(step, data, inverts=inverts)
        if isinstance(step, Invertd):
            return [self._invertd(step, pre)]
        return [self._step(step)]

    def _restored(self, step: Restored, data: Mapping[str, Any], *, inverts: bool) -> list[JsonValue]:
        """Resizing to the image's shape has no equal in MONAI; where the shape is right already, nothing is left."""
        written = self._step(step)
        image = data[self._task.input_key]
        unchanged = tuple(image.shape[1:]) == tuple(int(n) for n in np.asarray(image.meta["spatial_shape"]).reshape(-1))
        if step.invert_orient or not (inverts or unchanged):
            self._needs_scripts = True
            return [written]
        stand_in: list[JsonValue] = []
        if step.config_labels:
            foreground = [v for n, v in step.config_labels.items() if n.lower() != "background"]
            positions: list[JsonValue] = list(range(1, len(foreground) + 1))
            targets: list[JsonValue] = [int(v) for v in foreground]
            stand_in.append(
                {
                    "_target_": "monai.transforms.MapLabelValued",
                    "keys": self._task.output_label_key,
                    "orig_labels": positions,
                    "target_labels": targets,
                    "_disabled_": _PORTABLE,
                }
            )
        return [_disabled(written, _EXACT), *stand_in]

    def _invertd(self, step: Invertd, pre: Sequence[Any]) -> JsonValue:
        """An author's own Invertd: what it inverts is what prepared the image."""
        built = self._recording.of(step)
        transform = built.named.get("transform") if built is not None else None
        own = {id(part) for part in listed(transform)} if isinstance(transform, Compose) else set()
        known = {id(_unwrapped(part)) for part in pre}
        if own and own >= known:
            self._configuration.refer(transform, _PREPROCESSING)
        return self._step(step)

    # Parts.

    def _step(self, step: Any) -> JsonValue:
        return self._configuration.component(step, f"The transform {type(step).__name__}")

    def _exact(self, cls: type | Callable[..., Any], arguments: JsonObject) -> JsonObject:
        """A step of this package's code; disabled where that is not found."""
        return {"_target_": self._code.name_of(cls), "_disabled_": _EXACT, **arguments}


def _compose(steps: list[JsonValue]) -> JsonObject:
    return {"_target_": "monai.transforms.Compose", "transforms": steps}


def _disabled(step: JsonValue, when: str) -> JsonValue:
    return {**step, "_disabled_": when} if isinstance(step, dict) else step


def _needs_code(part: JsonValue) -> bool:
    """Whether something of `part` is shipped code that nothing stands in for."""
    if isinstance(part, list):
        return any(_needs_code(one) for one in part)
    if not isinstance(part, dict) or part.get("_disabled_") == _EXACT:
        return False
    target = part.get("_target_")
    own = isinstance(target, str) and target.startswith(f"{SCRIPTS}.")
    return own or any(_needs_code(one) for one in part.values())


def _inverted(key: str, image: str) -> JsonObject:
    return {
        "_target_": "monai.transforms.Invertd",
        "keys": key,
        "transform": _PREPROCESSING,
        "orig_keys": image,
        "nearest_interp": False,
        "to_tensor": True,
    }


def _unwrapped(step: Any) -> Any:
    """The loader of an app inside the one that lets arrays pass."""
    return step.load_image_d if isinstance(step, LoadImageTensord) else step


def _class_names(names: Sequence[str | type], pre: Sequence[Any], image: Any, key: str) -> list[str]:
    """The steps that are inverted, by class name; empty: all."""
    if not names:
        return []
    chosen, _ = chosen_for_inversion(image, key, list(pre), names)
    return [type(step).__name__ for step in chosen]
