"""3D Slicer's segmentation file (.seg.nrrd): named, coloured segments, which may overlap by lying in layers.

Source: https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html, "Segmentation file format".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelserver.domain.errors import UnreadableFile
from labelserver.domain.geometry import Grid
from labelserver.imaging.nrrd_files import NrrdHeader, geometry_fields, grid_of, read_header, read_voxels, write_array


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment: the voxels of `layer` that are equal to `value`."""

    name: str
    color: tuple[int, int, int]
    layer: int
    value: int
    segment_id: str = ""  #: the viewer's; it stays when a segment is renamed


@dataclass(frozen=True, slots=True, eq=False)
class SegNrrd:
    """`layers` is (L, I, J, K) with label values; `segments` says what they mean, in file order."""

    layers: NDArray[Any]
    grid: Grid
    segments: tuple[Segment, ...]

    def mask(self, index: int) -> NDArray[np.bool_]:
        """(I, J, K): the voxels of segment number `index`."""
        segment = self.segments[index]
        result: NDArray[np.bool_] = self.layers[segment.layer] == segment.value
        return result


def write_seg_nrrd(
    path: Path,
    layers: NDArray[Any],
    affine: NDArray[np.float64],
    names: list[str],
    colors: list[tuple[int, int, int]],
    *,
    compress: bool,
) -> None:
    """Write one segment per layer; layers may overlap, and then each keeps a layer of the file.

    Args:
        path: ends with ``.seg.nrrd``.
        layers: (C, I, J, K), a voxel belongs to segment c where layer c is not 0.
        affine: (4, 4) voxel to RAS+ mm.
        names: C names.
        colors: C colours, 0 to 255.
        compress: deflate the voxels.
    """
    masks = layers != 0
    count = len(names)
    if masks.ndim != 4 or masks.shape[0] != count or len(colors) != count:
        raise ValueError(f"{count} names, {len(colors)} colours and layers of shape {layers.shape} do not agree")
    overlapping = count > 0 and bool((masks.sum(axis=0, dtype=np.uint16) > 1).any())
    dtype = np.uint8 if count < 256 else np.uint16
    fields: NrrdHeader = geometry_fields(affine, list_axis=overlapping)
    for index, (name, color) in enumerate(zip(names, colors, strict=True)):
        where = (index, 1) if overlapping else (0, index + 1)
        fields |= _segment_fields(index, name, color, where, masks[index])
    fields["Segmentation_MasterRepresentation"] = "Binary labelmap"
    fields["Segmentation_ContainedRepresentationNames"] = "Binary labelmap|"
    if overlapping:
        array = masks.astype(dtype)
    else:
        array = np.zeros(masks.shape[1:], dtype)
        for index in range(count):
            array[masks[index]] = index + 1
    write_array(path, array, fields, compress=compress)


def read_seg_nrrd(path: Path) -> SegNrrd:
    """Read segments with their layers. A plain NRRD label map has one layer and no segments.

    Raises:
        UnreadableFile: damaged, or a segment that points to a layer the file has not.
    """
    header = read_header(path)
    grid, other = grid_of(path, header)
    voxels = read_voxels(path)
    layers = np.moveaxis(voxels, other, 0) if other is not None else voxels.reshape((1, *grid.shape))
    segments = tuple(_segments(path, header, len(layers)))
    return SegNrrd(layers, grid, segments)


def rewrite_on(
    path: Path, source: Path, layers: NDArray[Any], grid: Grid, changes: Mapping[int, int] | None = None
) -> None:
    """Write `source`'s segments with other `layers` (L, I, J, K) on another grid, keeping all other fields.

    `changes`: label value in `source` -> label value in `layers`, where they differ.
    """
    header = read_header(source)
    kept = {k: v for k, v in header.items() if k.startswith("Segment") and not k.endswith("_Extent")}
    kept.pop("Segmentation_ReferenceImageExtentOffset", None)
    for key, value in kept.items():
        if changes and key.endswith("_LabelValue") and str(value).strip().isdigit():
            kept[key] = str(changes.get(int(value), int(value)))
    several = len(layers) > 1
    fields = {**geometry_fields(grid.affine, list_axis=several), **kept}
    write_array(path, layers if several else layers[0], fields, compress=str(header.get("encoding")) != "raw")


def _segment_fields(
    index: int, name: str, color: tuple[int, int, int], where: tuple[int, int], mask: NDArray[np.bool_]
) -> NrrdHeader:
    prefix = f"Segment{index}_"
    layer, value = where
    inside = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    extent = [0, -1, 0, -1, 0, -1] if not inside[0].size else [int(v) for part in inside for v in (part[0], part[-1])]
    return {
        prefix + "ID": f"Segment_{index + 1}",
        prefix + "Name": name,
        prefix + "NameAutoGenerated": "0",
        prefix + "Color": " ".join(f"{c / 255:.6g}" for c in color),
        prefix + "ColorAutoGenerated": "0",
        prefix + "Extent": " ".join(str(v) for v in extent),
        prefix + "LabelValue": str(value),
        prefix + "Layer": str(layer),
        prefix + "Tags": "|",
    }


def _segments(path: Path, header: NrrdHeader, layer_count: int) -> list[Segment]:
    found = []
    index = 0
    while f"Segment{index}_ID" in header or f"Segment{index}_Name" in header:
        prefix = f"Segment{index}_"
        try:
            parts = [round(float(c) * 255) for c in str(header.get(prefix + "Color", "0.5 0.5 0.5")).split()]
            layer, value = int(header.get(prefix + "Layer", 0)), int(header.get(prefix + "LabelValue", index + 1))
            color = (parts[0], parts[1], parts[2])
        except (ValueError, IndexError) as error:
            raise UnreadableFile(f"{path.name}: segment {index} has a damaged colour, layer or value.") from error
        if not 0 <= layer < layer_count:
            raise UnreadableFile(f"{path.name}: segment {index} lies in layer {layer}, but there are {layer_count}.")
        segment_id = str(header.get(prefix + "ID", "")).strip()
        name = str(header.get(prefix + "Name", "")).strip() or segment_id or f"Segment_{index + 1}"
        found.append(Segment(name, color, layer, value, segment_id))
        index += 1
    return found
