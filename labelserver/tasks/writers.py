"""Write a task's answer into a file that clients open: masks, segmentations, boxes.

Files go to `tempfile.gettempdir()`, which a worker points at its spool, and belong to the caller, who deletes them.
Geometry is the image's own: shape as given, affine as `Restored` noted it or as the MetaTensor carries it.
"""

from __future__ import annotations

import json as json_format
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from labelserver.domain.errors import InvalidParams, TaskFailed, UnsupportedFormat
from labelserver.imaging.formats import LABEL_EXTENSIONS, PLAIN_LABEL_EXTENSIONS, is_picture, split_ext
from labelserver.imaging.seg_nrrd import write_seg_nrrd
from labelserver.imaging.volumes import write_volume
from labelserver.tasks.base import Labels, numbered_labels
from labelserver.tasks.colors import get_color
from labelserver.wire.mask_box import BoxCodec, EncodedBox, changed_box, encode_box

SEG_NRRD = ".seg.nrrd"
#: lossless formats that may hold a mask
_MASK_EXTENSIONS = frozenset(LABEL_EXTENSIONS) - set(PLAIN_LABEL_EXTENSIONS) - {".jpg", ".jpeg"}


#: where ``data`` says that the server wants a box, and in which codec
BOX_KEY = "result_box"
_BOX_CODECS = {"zstd": BoxCodec.ZSTD, "gzip": BoxCodec.GZIP}


class Writer:
    """Writes ``data[label]``, a label map or layers, and hands back ``data[json]``."""

    def __init__(
        self,
        label: str = "pred",
        json: str | None = None,
        ref_image: str | None = None,
        key_extension: str = "result_extension",
        key_dtype: str = "result_dtype",
        key_compress: str = "result_compress",
        key_write_to_file: str = "result_write_to_file",
        meta_key_postfix: str = "meta_dict",
        nibabel: bool = False,
    ) -> None:
        """Name the keys of ``data``.

        Args:
            label: the answer: (I, J[, K]), (1, I, J[, K]), or (C, I, J, K) layers, one a label.
            json: what goes into the JSON answer.
            ref_image: the key whose affine is written; default `label`.
            key_extension: format; default that of the image's file. Without either nothing is written.
            key_dtype: numpy dtype of the file's voxels; default the smallest unsigned one that holds the values.
            key_compress: deflate NRRD voxels; default no. ``.nii.gz`` is always compressed.
            key_write_to_file: false hands back the array.

        ``data["result_box"]``, which the server alone sets, asks for the box round everything marked, in one of the
        codecs of `wire.mask_box`, instead of a format.
            meta_key_postfix: the affine that `Restored` noted is at ``data[f"{ref_image}_{postfix}"]["affine"]``.
            nibabel: accepted for older apps; one writer serves all formats here.
        """
        self.label = label
        self.json = json
        self.ref_image = ref_image or label
        self.key_extension = key_extension
        self.key_dtype = key_dtype
        self.key_compress = key_compress
        self.key_write_to_file = key_write_to_file
        self.meta_key_postfix = meta_key_postfix
        self.nibabel = nibabel

    def __call__(self, data: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The file's path, the array where there is no format to write, or an `EncodedBox`; and the JSON answer.

        Raises:
            UnsupportedFormat: the extension is none that masks are kept in.
            InvalidParams: the dtype is none.
        """
        answer = data[self.label]
        document = dict(data.get(self.json) or {}) if self.json else {}
        codec = str(data.get(BOX_KEY) or "")
        if codec in _BOX_CODECS:
            return encoded_box(_voxels(answer, None), _BOX_CODECS[codec]), document
        array = _voxels(answer, data.get(self.key_dtype))
        extension = self._extension(data, array)
        if not extension or not data.get(self.key_write_to_file, True):
            return array, document
        path = new_file(extension)
        try:
            self._write(path, array, data)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return str(path), document

    def _extension(self, data: Mapping[str, Any], array: NDArray[Any]) -> str:
        asked = data.get(self.key_extension)
        layered = array.ndim == 4
        if asked:
            extension = str(asked) if str(asked).startswith(".") else f".{asked}"
            if extension.lower() not in _MASK_EXTENSIONS:
                allowed = ", ".join(sorted(_MASK_EXTENSIONS))
                raise UnsupportedFormat(f"A mask cannot be written as {extension[:20]!r}. Choose one of {allowed}.")
            return SEG_NRRD if layered else extension.lower()
        image = data.get("image_path")
        if not image:
            return ""
        extension = split_ext(Path(str(image)).name)[1].lower()
        if layered:
            return SEG_NRRD
        if array.ndim == 2:
            return extension if extension in _MASK_EXTENSIONS and is_picture(extension) else ".png"
        return extension if extension in _MASK_EXTENSIONS and not is_picture(extension) else ".nii.gz"

    def _write(self, path: Path, array: NDArray[Any], data: Mapping[str, Any]) -> None:
        affine = self._affine(data)
        compress = bool(data.get(self.key_compress, False))
        if split_ext(path.name)[1] == SEG_NRRD:
            write_segments(path, array, affine, data, compress=compress)
        else:
            voxels = array[..., None] if array.ndim == 2 else array
            write_volume(path, voxels, affine, compress=compress)

    def _affine(self, data: Mapping[str, Any]) -> NDArray[np.float64]:
        noted = data.get(f"{self.ref_image}_{self.meta_key_postfix}")
        affine = noted.get("affine") if isinstance(noted, Mapping) else None
        if affine is None and isinstance(data.get(self.ref_image), MetaTensor):
            affine = data[self.ref_image].affine.cpu()
        return np.eye(4) if affine is None else np.asarray(affine, dtype=np.float64)


def new_file(extension: str) -> Path:
    """A new empty file that nobody else can have."""
    descriptor, name = tempfile.mkstemp(suffix=extension)
    os.close(descriptor)
    return Path(name)


def encoded_box(array: NDArray[Any], codec: BoxCodec) -> EncodedBox:
    """A label map (I, J[, K]), or layers (C, I, J, K) of which later ones lie on top, as the box of what is marked."""
    solid = array[..., None] if array.ndim == 2 else array
    if solid.ndim == 4:
        flat = np.zeros(solid.shape[1:], np.uint8)
        for number, layer in enumerate(solid, start=1):
            flat[layer != 0] = number
        solid = flat
    return EncodedBox(encode_box(solid, changed_box(None, solid), codec=codec))


def write_segments(
    path: Path, array: NDArray[Any], affine: NDArray[np.float64], data: Mapping[str, Any], *, compress: bool
) -> None:
    """Layers (C, I, J, K), or a label map (I, J, K) taken apart by value, as named and coloured segments."""
    numbers = {name: v for name, v in numbered_labels(data.get("labels")).items() if v > 0}
    names = [name for name, _ in sorted(numbers.items(), key=lambda item: item[1])]
    colors = data.get("color_map") or data.get("label_colors")
    if array.ndim == 4:
        count = array.shape[0]
        names = [*names, *(f"label_{i + 1}" for i in range(len(names), count))][:count]
        layers = array
    else:
        solid = array[..., None] if array.ndim == 2 else array
        values = sorted(numbers.values()) or [int(v) for v in np.unique(solid) if v > 0]
        names = names or [f"label_{value}" for value in values]
        layers = np.stack([solid == value for value in values]) if values else np.zeros((0, *solid.shape), np.uint8)
    write_seg_nrrd(path, layers, affine, names, [get_color(name, colors) for name in names], compress=compress)


def _voxels(answer: Any, dtype: Any) -> NDArray[Any]:
    """The answer as an array without a single channel, in the dtype asked for or the smallest that fits."""
    if isinstance(answer, MetaTensor):
        answer = answer.as_tensor()
    array = np.asarray(answer.detach().cpu() if torch.is_tensor(answer) else answer)
    if array.ndim in (3, 4) and array.shape[0] == 1:
        array = array[0]
    if dtype is not None:
        try:
            return array.astype(np.dtype(dtype), copy=False)
        except (TypeError, ValueError) as error:
            raise InvalidParams(
                f"result_dtype {str(dtype)[:20]!r} is no number type; use for example uint8."
            ) from error
    return _smallest(array)


def _smallest(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype in (np.bool_, np.uint8) or not array.size:
        return array.astype(np.uint8, copy=False)
    low, high = float(array.min()), float(array.max())
    for dtype in (np.uint8, np.uint16):
        if low >= 0 and high <= np.iinfo(dtype).max:
            whole = array.astype(dtype)
            if np.issubdtype(array.dtype, np.integer) or np.array_equal(whole, array):
                return whole
    return array


class ClassificationWriter:
    """Turns one score per class into ``{"prediction": [{"idx", "label", "score"}, ...]}``; no file."""

    def __init__(self, label: str = "pred", label_names: Mapping[int, str] | Labels | None = None) -> None:
        self.label = label
        known = label_names or {}
        if isinstance(known, Mapping):
            pairs = [(k, v) if isinstance(v, str) else (v, k) for k, v in known.items()]
            self.label_names = {int(index): str(name) for index, name in pairs}
        else:
            self.label_names = dict(enumerate(known))

    def __call__(self, data: Mapping[str, Any]) -> tuple[None, dict[str, Any]]:
        answer = data[self.label]
        scores = np.asarray(answer.detach().cpu() if torch.is_tensor(answer) else answer, dtype=np.float64).ravel()
        prediction = [
            {"idx": index, "label": self.label_names.get(index, f"label_{index}"), "score": float(score)}
            for index, score in enumerate(scores)
        ]
        return None, {"prediction": prediction}


class DetectionWriter:
    """Writes boxes as a Slicer markups file: one region of interest per detection, LPS+ in mm.

    Source: the markups schema 1.0.3 of 3D Slicer (Modules/Loadable/Markups/Resources/Schema).
    """

    def __init__(
        self,
        pred_box_key: str = "box",
        pred_label_key: str = "label",
        pred_score_key: str = "label_scores",
        key_extension: str = "result_extension",
    ) -> None:
        self.pred_box_key = pred_box_key
        self.pred_label_key = pred_label_key
        self.pred_score_key = pred_score_key
        self.key_extension = key_extension

    def __call__(self, data: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Boxes (N, 6): center and size in mm, LPS+, as ``ConvertBoxModed`` to ``cccwhd`` leaves them."""
        boxes, labels = _rows(data.get(self.pred_box_key), 6), _rows(data.get(self.pred_label_key), 1)
        scores = _rows(data.get(self.pred_score_key), 1) if data.get(self.pred_score_key) is not None else None
        markups = [_region(boxes[i], int(labels[i][0]) if len(labels) > i else 0, i) for i in range(len(boxes))]
        document = {"@schema": _MARKUPS_SCHEMA, "markups": markups}
        path = new_file(".json")
        path.write_text(json_format.dumps(document, indent=1))
        answer = {"box": boxes.tolist(), "label": [int(row[0]) for row in labels]}
        if scores is not None:
            answer["label_scores"] = [float(row[0]) for row in scores]
        answer["image"] = str(Path(str(data.get("image_path", ""))).name)
        return str(path), answer


_MARKUPS_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)


def _rows(value: Any, width: int) -> NDArray[np.float64]:
    if value is None:
        raise TaskFailed("The detector's answer lacks boxes or labels; name their keys in DetectionWriter.")
    array = np.asarray(value.detach().cpu() if torch.is_tensor(value) else value, dtype=np.float64)
    return array.reshape(-1, width)


def _region(box: Sequence[float], label: int, index: int) -> dict[str, Any]:
    return {
        "type": "ROI",
        "roiType": "Box",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": False,
        "name": f"detection_{index + 1}",
        "label": {"value": label},
        "center": [float(v) for v in box[:3]],
        "size": [float(v) for v in box[3:6]],
        "orientation": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        "controlPoints": [],
        "measurements": [],
    }
