"""The inference task that app authors subclass: transforms, a network, transforms back, a file.

One call runs: config under request, pre transforms, inferer (or detector), inversion, post transforms, writer. Hooks
are asked anew at every call and get the live ``data`` dict, so that an app may branch on request options. A task may be
called from several threads: what a call computes lives in its ``data``, and the network cache has its own lock.

What always comes out the same is not done again (`prepared_head`), the usual way from scores to labels is taken at once
(`fast_post`), and a device that is too small is met by smaller steps (`memory_ladder`); all three keep to what they
know and leave the rest to run as the author wrote it.
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor, decollate_batch
from monai.inferers import Inferer, SimpleInferer, SlidingWindowInferer

from labelserver.domain.errors import DeviceMemoryFull, TaskFailed
from labelserver.tasks.base import InferType, Labels, numbered_labels
from labelserver.tasks.devices import CPU, device_list, device_map, name_to_device
from labelserver.tasks.fast_post import labelled
from labelserver.tasks.faster import faster
from labelserver.tasks.hooks import call_hook
from labelserver.tasks.infer_parts import NotingReads, StageClock, whole_numbers, wire_centroids, with_metadata
from labelserver.tasks.inverting import Names, inverted
from labelserver.tasks.known_transforms import LEAVES_INPUT
from labelserver.tasks.lending import borrowing, settle
from labelserver.tasks.memory_ladder import Attempt, MemoryStep, first_that_fits, free_memory, is_memory_full
from labelserver.tasks.network_cache import NetworkCache
from labelserver.tasks.network_task import NetworkTask
from labelserver.tasks.prepared_head import run_prepared
from labelserver.tasks.prepared_images import shared
from labelserver.tasks.stages import Callbacks, CallBackTypes, after
from labelserver.tasks.transform_runs import (
    ImagePath,
    Transforms,
    listed,
    note_latency,
    run_transforms,
    stop_if_asked,
    transform_latencies,
)
from labelserver.tasks.writers import ClassificationWriter, DetectionWriter, Writer

logger = logging.getLogger(__name__)


#: where ``data`` keeps how the forward pass fitted into memory
MEMORY_STEP = "memory_step"

#: Methods that see ``data``; a subclass that has its own gets its own copy of the prepared image, too.
_SEEING_DATA = (
    "run_pre_transforms",
    "run_inferer",
    "run_detector",
    "run_invert_transforms",
    "run_post_transforms",
    "writer",
)
#: Inferers that do not write into their input.
_LEAVING_INFERERS = (SimpleInferer, SlidingWindowInferer)


class BasicInferTask(NetworkTask):
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
        roi = whole_numbers(roi_size, "roi_size")
        if all(size <= window or window <= 0 for size, window in zip(image.shape[-len(roi) :], roi, strict=True)):
            return SimpleInferer()
        return SlidingWindowInferer(
            roi_size=roi,
            sw_batch_size=whole_numbers([options.get("sw_batch_size", 1)], "sw_batch_size")[0],
            overlap=float(options.get("sw_overlap", 0.25)),
        )

    def detector(self, data: dict[str, Any] | None = None) -> Any:
        """A detector that takes the network, for tasks of type detection."""
        return None

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
        except RuntimeError as error:  # in a transform; the forward pass has its own ladder
            if not is_memory_full(error):
                raise
        self._let_go()
        try:
            result, answer = self._answer({**request, "device": CPU}, callbacks or {})
            return result, {**answer, MEMORY_STEP: MemoryStep.CPU.value}
        except RuntimeError as error:
            if not is_memory_full(error):
                raise
        self._let_go()
        raise DeviceMemoryFull(
            "There is not enough memory for this image, not even on the CPU. Ask for a smaller region, or let the app "
            "use a larger spacing."
        )

    def _let_go(self) -> None:
        """Give back what this task and the prepared images hold of a full device."""
        self.clear()
        shared().clear()
        free_memory()

    def _answer(self, request: dict[str, Any], callbacks: Callbacks) -> tuple[Any, dict[str, Any]]:
        skips = self.skip_writer or request.get("skip_writer")
        own = any(getattr(type(self), name) is not getattr(BasicInferTask, name) for name in _SEEING_DATA)
        with borrowing(allowed=not (callbacks or skips or own)):
            return self._staged(request, callbacks)

    def _staged(self, request: dict[str, Any], callbacks: Callbacks) -> tuple[Any, dict[str, Any]]:
        clock = StageClock()
        data: Any = self._request_data(request)

        pre_transforms = listed(call_hook(self.pre_transforms, data))
        data = after(CallBackTypes.PRE_TRANSFORMS, self.run_pre_transforms(data, pre_transforms), callbacks)
        clock.lap("pre")

        run = self.run_detector if self.type == InferType.DETECTION else self.run_inferer
        data = after(CallBackTypes.INFERER, run(data, device=data["device"]), callbacks)
        clock.lap("infer")

        names = call_hook(self.inverse_transforms, data)
        at_once = self._labelled_at_once(data, pre_transforms, names, callbacks)
        if at_once is None:
            data = self.run_invert_transforms(data, pre_transforms, names)
            data = after(CallBackTypes.INVERT_TRANSFORMS, data, callbacks)
            post_transforms = call_hook(self.post_transforms, data)
        else:
            data, post_transforms = at_once
        clock.lap("invert")

        data = self.run_post_transforms(data, post_transforms)
        data = after(CallBackTypes.POST_TRANSFORMS, data, callbacks)
        clock.lap("post")

        if self.skip_writer or data.get("skip_writer"):
            return None, dict(data)
        result, answer = self.writer(data)
        after(CallBackTypes.WRITER, data, callbacks)
        clock.lap("write")

        answer = dict(answer or {})
        answer["label_names"] = numbered_labels(self.labels)
        answer["latencies"] = {**clock.laps, "total": clock.total(), "transform": transform_latencies(data)}
        answer["centroids"] = wire_centroids(data.get("centroids"))
        answer["memory_step"] = str(data.get(MEMORY_STEP, MemoryStep.FULL))
        logger.info("inferred", extra={"duration_s": clock.total(), "task": self.__class__.__name__})
        return result, answer

    def _labelled_at_once(
        self, data: Any, pre_transforms: Transforms, names: Names, callbacks: Callbacks
    ) -> tuple[dict[str, Any], Transforms] | None:
        """`data` with labels instead of scores and the post transforms left to run, where `fast_post` knows the way."""
        seen = CallBackTypes.INVERT_TRANSFORMS in callbacks or self.type == InferType.CLASSIFICATION
        own = any(
            getattr(type(self), name) is not getattr(BasicInferTask, name)
            for name in ("run_invert_transforms", "run_post_transforms")
        )
        if seen or own or not isinstance(data, dict) or self.output_label_key not in data:
            return None
        watched = NotingReads(data, self.output_label_key)
        post_transforms = listed(call_hook(self.post_transforms, watched))
        if watched.was_read:  # this author decides by the inverted answer
            return None
        started = time.perf_counter()
        found = labelled(
            data[self.output_label_key],
            data.get(self.input_key),
            self.input_key,
            listed(pre_transforms),
            names,
            post_transforms,
            self.output_label_key,
        )
        if found is None:
            return None
        result = {**dict.copy(watched), self.output_label_key: found[0]}
        note_latency(result, "post", "labels_at_once", time.perf_counter() - started)
        return result, found[1]

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
        """Run them; those that always make the same of an image only if their result is not at hand."""
        return run_prepared(data, [faster(step) for step in listed(transforms)], self.input_key)

    def run_inferer(self, data: Any, convert_to_batch: bool = True, device: str = "cuda") -> Any:
        """Send ``data[input_key]`` through the network; without a network, run what `inferer` gives as a transform.

        ``data["memory_step"]`` says afterwards how the pass fitted into memory (`memory_ladder.MemoryStep`).
        """
        stop_if_asked()
        inferer = call_hook(self.inferer, data)
        device = name_to_device(device)
        if type(inferer) not in _LEAVING_INFERERS:
            settle(data)
        if self._get_network(device, data) is None:
            return run_transforms(data, inferer, log_prefix="INF", log_name="Inferer")

        known = type(inferer) in _LEAVING_INFERERS

        def run(attempt: Attempt) -> Any:
            network = self._get_network(attempt.device, data)
            inputs = self._inputs(data, convert_to_batch, attempt.device)
            plain = inputs.as_tensor() if known and isinstance(inputs, MetaTensor) else inputs
            with torch.no_grad(), attempt.precision():
                return attempt.inferer(plain, network)

        try:
            outputs, data[MEMORY_STEP] = first_that_fits(inferer, device, run)
        except DeviceMemoryFull:
            self._let_go()
            raise
        if convert_to_batch:
            outputs = decollate_batch(outputs)[0] if isinstance(outputs, Mapping) else outputs[0]
        data[self.output_label_key] = with_metadata(outputs, data[self.input_key]) if known else outputs
        return data

    def run_detector(self, data: Any, convert_to_batch: bool = True, device: str = "cuda") -> Any:
        """Send ``data[input_key]`` through the detector and merge its boxes, labels and scores into ``data``."""
        stop_if_asked()
        settle(data)
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
        steps = listed(transforms)
        if isinstance(data, dict) and any(type(step) not in LEAVES_INPUT for step in steps):
            settle(data)
        return run_transforms(data, steps, log_prefix="POST")

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
