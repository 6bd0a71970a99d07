"""The network with the transforms that its file carries: a volume goes in, its labels on the same grid come out.

The configuration inside ``model.ts`` is code of whoever exported it, as the network is; both are run as such. Its
first transforms load a file and put the channel first; here the voxels are at hand, so they are left out.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.errors import AppFailed, DeviceMemoryFull
from labelserver.export.application.runtime import quick_imports
from labelserver.imaging.volume import Volume

_LOADS = ("LoadImage", "EnsureChannelFirst", "SaveImage")

#: of each inference when it began: seconds of the machine's clock, of this process's time; benchmarks read it
began: list[tuple[float, float]] = []


@dataclass(frozen=True, slots=True)
class Predictor:
    """A loaded model. Not for several threads at once."""

    device: str
    _network: Callable[..., Any]
    _before: Callable[..., Any]
    _infer: Callable[..., Any]
    _after: Callable[..., Any]

    def labels_of(self, volume: Volume) -> NDArray[np.integer[Any]]:
        """(I, J, K) on the grid of `volume`: uint8, or uint16 where values need it.

        Raises:
            DeviceMemoryFull: the device has too little memory.
            AppFailed: the transforms gave something else than labels on this grid.
        """
        import torch

        try:
            with torch.no_grad():
                data = self._before({"image": _tensor(volume)})
                image = data["image"][None].to(self.device)
                began.append((time.monotonic(), time.process_time()))
                data["pred"] = self._infer(image, self._network)[0]
                pred = self._after(data)["pred"]
        except torch.OutOfMemoryError as error:
            raise DeviceMemoryFull(
                f"The device {self.device} has too little memory for a volume of {volume.grid.shape} voxels. "
                "Run with --device cpu."
            ) from error
        labels: NDArray[Any] = np.asarray(pred.cpu() if torch.is_tensor(pred) else pred)
        labels = labels[0] if labels.ndim == 4 and labels.shape[0] == 1 else labels
        if labels.shape != volume.grid.shape:
            raise AppFailed(f"The model answered the shape {labels.shape} to an image of {volume.grid.shape}.")
        return labels.astype(np.uint8 if not labels.size or labels.max() < 256 else np.uint16)


def load(model: Path, code: Path, device: str = "", threads: int = 0) -> Predictor:
    """Read ``model.ts`` and build its transforms.

    Args:
        model: the file, under the name it was saved with.
        code: where the package ``scripts`` of the export stands, if it has one.
        device: as torch names it; "": cuda where there is one, else cpu.
        threads: of the CPU; 0: as torch chooses.

    Raises:
        AppFailed: the file is no model of an export.
    """
    import torch

    quick_imports.install()
    if threads:
        torch.set_num_threads(threads)
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    extra: dict[str, Any] = {"inference.json": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            network = torch.jit.load(str(model), map_location=chosen, _extra_files=extra)
        except (RuntimeError, ValueError, OSError) as error:
            raise AppFailed(f"{model.name} cannot be loaded on {chosen}: {str(error).splitlines()[0]}") from error
    if not extra["inference.json"]:
        raise AppFailed(f"{model.name} holds no inference.json. A renamed file loses its configuration; copy it again.")
    if str(code) not in sys.path:
        sys.path.insert(0, str(code))
    document = json.loads(extra["inference.json"])
    return Predictor(chosen, network.eval(), *_steps(document, chosen))


def _steps(document: dict[str, Any], device: str) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """What prepares, infers and finishes."""
    from monai.bundle import ConfigParser
    from monai.inferers import SimpleInferer

    document = {**document, "device": f"$torch.device({device!r})"}
    document.pop("network", None)
    if "preprocessing" in document:
        document["preprocessing"] = _without_loading(document["preprocessing"])
    parser = ConfigParser(_full_names(document) if quick_imports.installed() else document)
    found = {
        name: parser.get_parsed_content(name, instantiate=True) if name in document else None
        for name in ("preprocessing", "postprocessing", "inferer")
    }
    return (
        _composed(found["preprocessing"]),
        found["inferer"] or SimpleInferer(),
        _composed(found["postprocessing"]),
    )


def _composed(steps: Any) -> Callable[..., Any]:
    from monai.transforms import Compose

    if callable(steps):
        composed: Callable[..., Any] = steps
    else:
        composed = Compose(steps or [])
    return composed


def _without_loading(steps: Any) -> Any:
    """The same without what loads and saves files; `steps` is a Compose or a list."""
    if isinstance(steps, Mapping):
        return {**steps, "transforms": _without_loading(steps.get("transforms", []))}
    return [step for step in steps if not _target(step).rpartition(".")[2].startswith(_LOADS)]


def _target(step: Any) -> str:
    return str(step.get("_target_", "")) if isinstance(step, Mapping) else ""


def _full_names(value: Any) -> Any:
    """Short class names as MONAI's parser would find them among all it has imported, which here is little."""
    import monai.inferers
    import monai.transforms

    if isinstance(value, list):
        return [_full_names(part) for part in value]
    if not isinstance(value, Mapping):
        return value
    made = {name: _full_names(part) for name, part in value.items()}
    target = made.get("_target_")
    if isinstance(target, str) and target.isidentifier():
        for package in (monai.transforms, monai.inferers):
            if quick_imports.offers(package, target):
                made["_target_"] = f"{package.__name__}.{target}"
                break
    return made


def _tensor(volume: Volume) -> Any:
    """(1, I, J, K) float32, with what MONAI's loader would know about the file."""
    import torch
    from monai.data import MetaTensor

    voxels = np.ascontiguousarray(volume.voxels, dtype=np.float32)[None]
    # The server keeps a series as NIfTI, whose matrix has float32; the same numbers here give the same labels.
    affine = torch.as_tensor(volume.grid.affine.astype(np.float32).astype(np.float64))
    meta: dict[str, Any] = {"original_affine": affine.clone(), "spatial_shape": np.asarray(volume.grid.shape)}
    meta |= {"space": "RAS", "original_channel_dim": "no_channel", "filename_or_obj": "image"}
    return MetaTensor(torch.from_numpy(voxels), affine=affine, meta=meta)
