"""The study that the page is tested on: one body seen in several ways, and a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from labelserver.domain.geometry import Grid
from labelserver.imaging.reordering import AxisChange, ras_change
from labelserver.imaging.volumes import read_volume, write_volume
from labelserver.phantoms import make_phantom

#: The same body: as a viewer shows it, flipped front to back, and with axes permuted and turned by 20 degrees.
WAYS = ("straight", "flipped", "turned")
#: Images with a label from which `organs` learns.
CASES = 6

_STORED = {
    "straight": AxisChange((0, 1, 2), (False, False, False)),
    "flipped": AxisChange((0, 1, 2), (True, True, False)),
    "turned": AxisChange((2, 0, 1), (False, True, False)),
}


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """On the page's grid: `hu` (X, Y, Z), and how a file of the study stores it."""

    hu: NDArray[np.int16]
    stored: AxisChange

    @property
    def dims(self) -> tuple[int, int, int]:
        x, y, z = self.hu.shape
        return (x, y, z)


def make_study(folder: Path, labels: Path) -> dict[str, Body]:
    """Write the study into `folder` and the labels of its cases into `labels`. Returns the bodies by image id."""
    folder.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    phantom = make_phantom(1, seed=3, spacing_mm=6.0)
    change = ras_change(Grid(phantom.voxels.shape, phantom.affine))  # type: ignore[arg-type]
    hu = np.ascontiguousarray(change.apply(phantom.voxels))
    bodies = {}
    for name in WAYS:
        affine = _turned() if name == "turned" else np.diag([6.0, 6.0, 6.0, 1.0])
        grid = _STORED[name].apply_to_grid(Grid(hu.shape, affine))  # type: ignore[arg-type]
        write_volume(folder / f"{name}.nii.gz", _STORED[name].apply(hu), grid.affine, compress=True)
        bodies[name] = Body(hu, _STORED[name])
    for number in range(CASES):
        case = make_phantom(number, seed=5, spacing_mm=8.0)
        write_volume(folder / f"case_{number}.nii.gz", case.voxels, case.affine, compress=True)
        organs = np.where(case.labels <= 2, case.labels, 0).astype(np.uint8)
        write_volume(labels / f"case_{number}.nii.gz", organs, case.affine, compress=True)
    picture = np.random.default_rng(1).integers(60, 200, (96, 128, 3)).astype(np.uint8)
    picture[30:60, 40:90] = (220, 40, 40)
    Image.fromarray(picture).save(folder / "photo.png")
    return bodies


def _turned() -> NDArray[np.float64]:
    """20 degrees about z, 10 about x, with an origin."""
    a, b = np.radians(20.0), np.radians(10.0)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x * 6.0
    affine[:3, 3] = (-120.5, 33.25, 512.0)
    return affine


def stored_label(file: Path, body: Body) -> NDArray[np.uint8]:
    """A label file as the page's grid (X, Y, Z) shows it."""
    back = body.stored.inverse()
    voxels: NDArray[np.uint8] = back.apply(read_volume(file).voxels)
    return voxels
