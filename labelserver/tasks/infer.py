"""The inference task that app authors subclass: transforms, a network, transforms back, a file.

One call runs: config under request, pre transforms, inferer (or detector), inversion, post transforms, writer. Hooks
are asked anew at every call and get the live ``data`` dict, so that an app may branch on request options. A task may be
called from several threads: what a call computes lives in its ``data``, and the network cache has its own lock.
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from monai.data import decollate_batch
from monai.inferers import Inferer, SimpleInferer, SlidingWindowInferer

from labelserver.domain.errors import DeviceMemoryFull, InvalidParams, ModelNotFound, TaskFailed
from labelserver.domain.json_types import JsonObject
from labelserver.tasks.base import InferTask, InferType, Labels, numbered_labels
from labelserver.tasks.devices import device_list, device_map, name_to_device
from labelserver.tasks.hooks import call_hook
from labelserver.tasks.inverting import Names, inverted
from labelserver.tasks.network_cache import NetworkCache, WeightFile
from labelserver.tasks.transform_runs import (
    ImagePath,
    Transforms,
    listed,
    run_transforms,
    stop_if_asked,
    transform_latencies,
)
from labelserver.tasks.transforms.caching import run_behind_cache
from labelserver.tasks.writers import ClassificationWriter, DetectionWriter, Writer

logger = logging.getLogger(__name__)


class CallBackTypes(StrEnum):
    """The moments between the stages of a call at which a caller may look at or change ``data``."""

    PRE_TRANSFORMS = "PRE_TRANSFORMS"
    INFERER = "INFERER"
    INVERT_TRANSFORMS = "INVERT_TRANSFORMS"
    POST_TRANSFORMS = "POST_TRANSFORMS"
    WRITER = "WRITER"


#: Stage -> what to do with ``data`` after it; the answer replaces ``data`` (that of WRITER is ignored).
Callbacks = Mapping[CallBackTypes, Callable[[Any], Any]]


class BasicInferTask(InferTask):
    """Answers for one image with a network. Subclasses give `pre_transforms`, `post_transforms`, mostly `inferer`."""

    def __init__(
        self,
        path: str | Path | Sequence[str | Path] | None = None,
        network: torch.nn.Module | None = None,
        type: str = InferType.SEGMENTATION,
        labels: Labels | str | None = None,
        dimension: int = 3,
        description: str = "",
        model_state_dict: str = "model",
        input_key: str = "image",
        output_label_key: str = "pred",
        output_json_key: str = "result",
        config: Mapping[str, Any] | None = None,
        load_strict: bool = True,
        roi_size: Sequence[int] | None = None,
        preload: bool = False,
        train_mode: bool = False,
        skip_writer: bool = False,
    ) -> None:
        """Keep what the hooks need; nothing is read unless `preload`.

        Args:
            path: weight file, or several of which the last existing one is in use (pretrained first, published last).
            network: template that is copied to each device; None if the weight file is TorchScript.
            type: one of `InferType`, as text.
            labels: names in order, or name -> voxel value.
            dimension: 2 or 3.
            description: for people; default the class's docstring or name.
            model_state_dict: key of the parameters inside a checkpoint; a bare state is accepted as well.
            input_key: where the image is in ``data``.
            output_label_key: where the network's answer goes.
            output_json_key: where post transforms leave what belongs into the JSON answer.
            config: options with their defaults, shown to clients.
            load_strict: whether the names in a checkpoint must match the network's.
            roi_size: voxels; window of the default inferer.
            preload: load the network on every device now.
            train_mode: keep dropout active.
            skip_writer: answer ``(None, data)`` instead of writing a file.
        """
        super().__init__(
            type=type,
            labels=labels,
            dimension=dimension,
            description=description,
            config={"device": device_list(), **(config or {})},
        )
        self.path = path
        self.network = network
        self.model_state_dict = model_state_dict
        self.input_key = input_key
        self.output_label_key = output_label_key
        self.output_json_key = output_json_key
        self.load_strict = load_strict
        self.roi_size = roi_size
        self.train_mode = train_mode
        self.skip_writer = skip_writer
        self._networks = NetworkCache()
        if preload and (network is not None or self.get_path()):
            for device in device_map().values():
                self._get_network(device, None)

    @abstractmethod
    def pre_transforms(self, data: dict[str, Any] | None = None) -> Transforms:
        """Steps from ``{"image": path or array, ...}`` to the network's input under ``image``."""

    @abstractmethod
    def post_transforms(self, data: dict[str, Any] | None = None) -> Transforms:
        """Steps from the network's answer under ``pred`` to a label map on the image's grid."""

    def inverse_transforms(self, data: dict[str, Any] | None = None) -> Names:
        """None: invert nothing. Empty: every invertible pre transform. Else names or classes of those to invert."""
        return None

    def inferer(self, data: dict[str, Any] | None = None) -> Inferer | Callable[..., Any]:
        """A sliding window if the image is larger than the region of interest along some axis, else one pass."""
        options = data or {}
        roi_size = options.get("roi_size") or self.roi_size
        image: Any = options.get(self.input_key)
        if not roi_size or not hasattr(image, "shape"):
            return SimpleInferer()
        roi = _numbers(roi_size, "roi_size")
        if all(size <= window or window <= 0 for size, window in zip(image.shape[-len(roi) :], roi, strict=True)):
            return SimpleInferer()
        return SlidingWindowInferer(
            roi_size=roi,
            sw_batch_size=_numbers([options.get("sw_batch_size", 1)], "sw_batch_size")[0],
            overlap=float(options.get("sw_overlap", 0.25)),
        )

    def detector(self, data: dict[str, Any] | None = None) -> Any:
        """A detector that takes the network, for tasks of type detection."""
        return None

    def is_valid(self) -> bool:
        return self.network is not None or self.type == InferType.SCRIBBLES or self.get_path() is not None

    def paths(self) -> list[str]:
        """The weight files in order, as text."""
        given = self.path
        if not given:
            return []
        several = [given] if isinstance(given, str | Path) else list(given)
        return [str(path) for path in several if path]

    def get_path(self, validate: bool = True) -> str | None:
        """The last weight file that exists; without `validate` simply the last one."""
        for path in reversed(self.paths()):
            if not validate or Path(path).exists():
                return path
        return None

    def clear(self) -> None:
        """Forget loaded networks."""
        self._networks.clear()

    def clear_cache(self) -> None:
        """Forget loaded networks."""
        self.clear()

    def set_loglevel(self, level: int | str) -> None:
        """Set how much this module tells."""
        logger.setLevel(level)

    def __call__(self, request: dict[str, Any], callbacks: Callbacks | None = None) -> tuple[Any, dict[str, Any]]:
        """Answer for ``request["image"]``: a path, or an array.

        Returns:
            The written file's path, or an array if nothing says which format to write, or what an overriding `writer`
            gave; and the JSON answer. With ``skip_writer``: None and the whole ``data``.

        Raises:
            ModelNotFound: no network and no weight file.
            TaskFailed: weights or transforms do not fit.
            DeviceMemoryFull: the device ran out of memory.
            RequestCancelled: nobody waits for the answer any more.
        """
        try:
            return self._answer(request, callbacks or {})
        except torch.OutOfMemoryError as error:
            self.clear()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            raise DeviceMemoryFull(
                "The device ran out of memory for this image. Choose a smaller roi_size or device=cpu."
            ) from error

    def _answer(self, request: dict[str, Any], callbacks: Callbacks) -> tuple[Any, dict[str, Any]]:
        clock = _Clock()
        data: Any = self._request_data(request)

        pre_transforms = listed(call_hook(self.pre_transforms, data))
        data = _after(CallBackTypes.PRE_TRANSFORMS, self.run_pre_transforms(data, pre_transforms), callbacks)
        clock.lap("pre")

        run = self.run_detector if self.type == InferType.DETECTION else self.run_inferer
        data = _after(CallBackTypes.INFERER, run(data, device=data["device"]), callbacks)
        clock.lap("infer")

        names = call_hook(self.inverse_transforms, data)
        data = self.run_invert_transforms(data, pre_transforms, names)
        data = _after(CallBackTypes.INVERT_TRANSFORMS, data, callbacks)
        clock.lap("invert")

        data = self.run_post_transforms(data, call_hook(self.post_transforms, data))
        data = _after(CallBackTypes.POST_TRANSFORMS, data, callbacks)
        clock.lap("post")

        if self.skip_writer or data.get("skip_writer"):
            return None, dict(data)
        result, answer = self.writer(data)
        _after(CallBackTypes.WRITER, data, callbacks)
        clock.lap("write")

        answer = dict(answer or {})
        answer["label_names"] = numbered_labels(self.labels)
        answer["latencies"] = {**clock.laps, "total": clock.total(), "transform": transform_latencies(data)}
        answer["centroids"] = _centroids(data.get("centroids"))
        logger.info("inferred", extra={"duration_s": clock.total(), "task": self.__class__.__name__})
        return result, answer

    def _request_data(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Config under request, both copied; the device resolved; the image's path kept beside the image."""
        data = deepcopy(self._config)
        data.update({key: value if hasattr(value, "shape") else deepcopy(value) for key, value in request.items()})
        data["device"] = name_to_device(data.get("device"))
        image = data.get(self.input_key)
        if isinstance(image, str | Path):
            data[self.input_key] = str(image)
            data["image_path"] = ImagePath(image)
        data.pop("latencies", None)
        return data

    def run_pre_transforms(self, data: Any, transforms: Transforms) -> Any:
        """Run them; those before a `CacheTransformDatad` only if it has no answer for this image."""
        return run_behind_cache(data, listed(transforms))

    def run_inferer(self, data: Any, convert_to_batch: bool = True, device: str = "cuda") -> Any:
        """Send ``data[input_key]`` through the network; without a network, run what `inferer` gives as a transform."""
        stop_if_asked()
        inferer = call_hook(self.inferer, data)
        device = name_to_device(device)
        network = self._get_network(device, data)
        if network is None:
            return run_transforms(data, inferer, log_prefix="INF", log_name="Inferer")
        inputs = self._inputs(data, convert_to_batch, device)
        with torch.no_grad():
            outputs = inferer(inputs, network)
        if convert_to_batch:
            outputs = decollate_batch(outputs)[0] if isinstance(outputs, Mapping) else outputs[0]
        data[self.output_label_key] = outputs
        return data

    def run_detector(self, data: Any, convert_to_batch: bool = True, device: str = "cuda") -> Any:
        """Send ``data[input_key]`` through the detector and merge its boxes, labels and scores into ``data``."""
        stop_if_asked()
        detector = call_hook(self.detector, data)
        if detector is None:
            raise TaskFailed(f"{self.__class__.__name__} is of type detection and has no detector().")
        device = name_to_device(device)
        detector.network = self._get_network(device, data)
        inputs = self._inputs(data, convert_to_batch, device)
        with torch.no_grad():
            outputs = detector(inputs, use_inferer=True)
        if convert_to_batch:
            outputs = decollate_batch(outputs)[0] if isinstance(outputs, Mapping) else outputs[0]
        if isinstance(outputs, Mapping):
            data.update(outputs)
        else:
            data[self.output_label_key] = outputs
        return data

    def run_invert_transforms(self, data: Any, pre_transforms: Transforms, names: Names) -> Any:
        """Bring ``data[output_label_key]`` back through the pre transforms that `names` choose."""
        if names is None:
            return data
        data[self.output_label_key] = inverted(
            data[self.output_label_key], data[self.input_key], self.input_key, listed(pre_transforms), names
        )
        return data

    def run_post_transforms(self, data: Any, transforms: Transforms) -> Any:
        """Run them."""
        return run_transforms(data, transforms, log_prefix="POST")

    def writer(
        self, data: dict[str, Any], extension: str | None = None, dtype: Any = None
    ) -> tuple[Any, dict[str, Any]]:
        """Write the answer. Returns a file's path (or an array, or None) and the JSON answer."""
        if extension is not None:
            data["result_extension"] = extension
        if dtype is not None:
            data["result_dtype"] = dtype
        if self.type == InferType.CLASSIFICATION:
            names = {value: name for name, value in numbered_labels(self.labels).items()}
            if not isinstance(self.labels, Mapping):
                names = dict(enumerate(self.labels))
            return ClassificationWriter(label=self.output_label_key, label_names=names)(data)
        if self.type == InferType.DETECTION:
            return DetectionWriter()(data)
        data.setdefault("labels", self.labels)
        return Writer(label=self.output_label_key, json=self.output_json_key)(data)

    def _inputs(self, data: Mapping[str, Any], convert_to_batch: bool, device: str) -> torch.Tensor:
        image = data[self.input_key]
        inputs: torch.Tensor = image if torch.is_tensor(image) else torch.as_tensor(image)
        inputs = inputs if torch.is_floating_point(inputs) else inputs.float()
        return (inputs[None] if convert_to_batch else inputs).to(device)

    def _get_network(self, device: str, data: Mapping[str, Any] | None) -> torch.nn.Module | None:
        path = self._weights(data or {})
        if path is None and self.network is None:
            if self.type == InferType.SCRIBBLES:
                return None
            raise ModelNotFound(
                f"{self.description}: there are no weights yet. Train this model, or put a file at "
                f"{', '.join(Path(p).name for p in self.paths()) or 'its path'}."
            )
        weights = WeightFile(
            path=path, state_key=self.model_state_dict, strict=self.load_strict, train_mode=self.train_mode
        )
        return self._networks.get(device, self.network, weights)

    def _weights(self, data: Mapping[str, Any]) -> Path | None:
        """The file in use: the last existing of `path`, or the one the request chose beside the first."""
        chosen = data.get("model_filename")
        chosen = chosen[0] if isinstance(chosen, list | tuple) and chosen else chosen
        paths = self.paths()
        if chosen and paths and "model_filename" in self._config:
            if not isinstance(chosen, str) or Path(chosen).name != chosen:
                raise InvalidParams("model_filename is the name of a file beside the model's weights, without folders.")
            beside = Path(paths[0]).parent / chosen
            if beside.is_file():
                return beside
        found = self.get_path()
        return Path(found) if found else None


class _Clock:
    """Seconds of each stage of one call."""

    def __init__(self) -> None:
        self._started = self._last = time.perf_counter()
        self.laps: dict[str, float] = dict.fromkeys(("pre", "infer", "invert", "post", "write"), 0.0)

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 4)
        self._last = now

    def total(self) -> float:
        return round(time.perf_counter() - self._started, 4)


def _after(stage: CallBackTypes, data: Any, callbacks: Callbacks) -> Any:
    callback = callbacks.get(stage)
    return data if callback is None else callback(data)


def _numbers(values: Any, name: str) -> list[int]:
    """Positive whole numbers that a client sent. Raises `InvalidParams`."""
    try:
        return [int(value) for value in values]
    except (TypeError, ValueError) as error:
        raise InvalidParams(f"{name} must hold whole numbers, for example [96, 96, 96].") from error


def _centroids(found: Any) -> JsonObject:
    """``{"label_<id>": ["<id>", "<i>", "<j>", "<k>"]}`` as clients read it, from a dict or a list of dicts."""
    tables = [found] if isinstance(found, Mapping) else found or []
    return {str(name): [str(part) for part in values] for table in tables for name, values in table.items()}
