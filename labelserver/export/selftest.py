"""The case that an export carries, so that whoever receives it can see that it answers as this server did.

By default a made-up study (`labelserver.phantoms`) or picture: an export travels, and a patient's images do not belong
into it. Who has a case that may travel hands it over.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from labelserver.domain.errors import InvalidParams
from labelserver.export.contents import SELFTEST, RunSettings
from labelserver.export.inference_config import TaskConfig
from labelserver.imaging.dicom_series import find_series, read_series
from labelserver.imaging.formats import is_picture, split_ext
from labelserver.imaging.volumes import Volume, read_volume, write_volume
from labelserver.phantoms import make_phantom
from labelserver.tasks.infer import BasicInferTask

LOGITS = "logits.npz"
#: mm; a coarse phantom, because the case is answered at each check
_PHANTOM_SPACING_MM = 5.0
_PICTURE = (96, 80)
#: voxels along an axis of the window whose scores are kept
_LOGITS_SIZE = 32


@dataclass(frozen=True, slots=True)
class Answer:
    """The server's own answer to the case."""

    labels: NDArray[Any]  #: (I, J[, K])
    file: Path


def place_case(folder: Path, dimension: int, case: Path | None) -> Path:
    """Write ``selftest/input.*`` below `folder`.

    Args:
        folder: of the export.
        dimension: 2 for pictures.
        case: an image or a folder of DICOM files; None: a made-up one.

    Raises:
        InvalidParams: a volume for a model of pictures, or the other way round.
        UnreadableFile, UnsupportedFormat: the case cannot be read.
    """
    target = folder / SELFTEST
    target.mkdir()
    if case is None:
        return _made_up_picture(target) if dimension == 2 else _made_up_volume(target)
    picture = case.is_file() and is_picture(split_ext(case.name)[1])
    if picture != (dimension == 2):
        wanted = "a picture (.png, .jpg, .tif)" if dimension == 2 else "a volume (NIfTI, NRRD, a folder of DICOM)"
        raise InvalidParams(f"The model works on {dimension}-D images; {case.name} is none. Give it {wanted}.")
    if picture:
        extension = split_ext(case.name)[1].lower()
        shutil.copyfile(case, target / f"input{extension}")
        return target / f"input{extension}"
    volume = _one_series(case) if case.is_dir() else read_volume(case)
    path = target / "input.nii.gz"
    write_volume(path, volume.voxels, volume.grid.affine, compress=True)
    return path


def answer_of(task: BasicInferTask, image: Path) -> Answer:
    """What the server answers for `image`, put beside it as ``expected.*``.

    Raises:
        InvalidParams: the answer is no label map on the image's grid.
    """
    file, _ = task({"image": str(image), "device": "cpu"})
    if not isinstance(file, str | Path):
        raise InvalidParams(f"The model answers with {type(file).__name__} and no file; only label maps are exported.")
    path = Path(file)
    extension = split_ext(path.name)[1]
    target = image.with_name(f"expected{extension}")
    shutil.move(path, target)
    target.chmod(0o644)
    labels = label_map(target)
    shape = label_map(image).shape
    if labels.shape != shape[: labels.ndim]:
        raise InvalidParams(
            f"The model answers with shape {labels.shape} for an image of {shape}; only label maps on the image's own "
            "grid are exported. Return one map of whole numbers."
        )
    return Answer(labels, target)


def label_map(path: Path) -> NDArray[Any]:
    """The voxels of a file; a picture's without its third axis."""
    voxels = read_volume(path).voxels
    return voxels[:, :, 0] if is_picture(split_ext(path.name)[1]) else voxels


def keep_logits(network: nn.Module, channels: int, dimension: int, multiple: int, folder: Path) -> torch.Tensor:
    """Write a window and the server network's scores for it; returns the window (1, C, ...)."""
    size = max(multiple, _LOGITS_SIZE // multiple * multiple)
    random = torch.Generator().manual_seed(0)
    window = torch.rand((1, channels, *[size] * dimension), generator=random)
    with torch.no_grad():
        scores = network(window)
    np.savez_compressed(folder / SELFTEST / LOGITS, window=window.numpy(), scores=scores.numpy())
    return window


def write_settings(folder: Path, config: TaskConfig, network: nn.Module) -> RunSettings:
    """Write ``selftest/settings.json``: what the numbers depend on."""
    weights = [module.weight for module in network.modules() if isinstance(module, nn.Conv3d)]
    last = bool(weights) and all(w.is_contiguous(memory_format=torch.channels_last_3d) for w in weights)
    settings = RunSettings(
        device="cpu",
        threads=torch.get_num_threads(),
        memory_format="channels_last_3d" if last else "contiguous_format",
        window=config.window,
        window_batch=config.window_batch,
        overlap=config.overlap,
        versions={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "monai": monai.__version__,
            "numpy": np.__version__,
        },
        processor=f"{platform.machine()}, {os.cpu_count()} cores",
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
    )
    (folder / SELFTEST / "settings.json").write_text(json.dumps(settings.to_json(), indent=2) + "\n")
    return settings


def _one_series(folder: Path) -> Volume:
    series = find_series(folder)
    if len(series) != 1:
        raise InvalidParams(f"{folder.name} holds {len(series)} DICOM series that are images; give a folder with one.")
    return read_series(series[0])


def _made_up_volume(target: Path) -> Path:
    case = make_phantom(1, spacing_mm=_PHANTOM_SPACING_MM)
    path = target / "input.nii.gz"
    write_volume(path, case.voxels, case.affine, compress=True)
    return path


def _made_up_picture(target: Path) -> Path:
    """Discs on a shaded ground, in colour."""
    i, j = np.meshgrid(*(np.arange(size, dtype=np.float64) for size in _PICTURE), indexing="ij")
    ground = 90 + 60 * i / _PICTURE[0]
    picture = np.stack([ground, ground + 20 * np.sin(j / 7), 160 - 50 * j / _PICTURE[1]], axis=-1)
    for centre, radius, colour in (((30, 25), 14, (200, 60, 60)), ((62, 50), 20, (60, 180, 70))):
        inside = (i - centre[0]) ** 2 + (j - centre[1]) ** 2 < radius**2
        picture[inside] = colour
    path = target / "input.png"
    write_volume(path, picture.astype(np.uint8)[:, :, None, :], np.eye(4), compress=False)
    return path
