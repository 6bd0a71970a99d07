"""Make sample studies: abdominal CT phantoms with known labels, so that the whole loop runs without anybody's data.

A phantom is a body built from ellipsoids and tubes in patient space (RAS+ mm), bent by a smooth random warp and sampled
on a grid of its own. Cases differ in pose, size, contrast phase, spacing and stored axis order; every fourth is
anisotropic, one in eight oblique. Organs share their HU with muscle, bowel, stomach and vessels, so that a threshold
does not find them. The same arguments give the same voxels.

HU of tissues are typical values of unenhanced and portal-venous abdominal CT.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from labelserver.domain.geometry import Affine
from labelserver.imaging.volumes import write_volume

#: name -> voxel value in the reference labels
LABELS = {"liver": 1, "spleen": 2, "right_kidney": 3, "left_kidney": 4}

Points = NDArray[np.float32]  #: (I, J, K, 3), RAS+ mm in the body's own frame
Field = NDArray[np.float32]  #: (I, J, K)
Mask = NDArray[np.bool_]  #: (I, J, K)

#: mm; what a scan covers along patient x, y, z. Wider than the body, so that air and table are seen.
_FIELD_OF_VIEW_MM = (350.0, 264.0, 224.0)
#: Stored axis orders, one after the other.
_ORIENTATIONS = ("LPS", "RAS", "LAS", "LPS", "LPI", "RAS", "PSR", "LPS", "RPI", "SAR")


@dataclass(frozen=True, slots=True)
class Tissues:
    """Mean HU of what contrast agent changes."""

    liver: float
    spleen: float
    kidney: float
    medulla: float
    vessel: float
    muscle: float


_NATIVE = Tissues(liver=60, spleen=50, kidney=33, medulla=28, vessel=42, muscle=54)
_VENOUS = Tissues(liver=106, spleen=116, kidney=158, medulla=128, vessel=146, muscle=63)

AIR, LUNG, FAT, GUT, WATER, CORTEX, MARROW, DISK = -1000.0, -830.0, -98.0, 34.0, 8.0, 480.0, 210.0, 85.0


@dataclass(frozen=True, slots=True)
class Phantom:
    """One case. `voxels` int16 HU, `labels` uint8, both (I, J, K) on the grid of `affine` (RAS+)."""

    name: str
    voxels: NDArray[np.int16]
    labels: NDArray[np.uint8]
    affine: Affine
    contrast: bool


def make_study_set(
    folder: Path,
    count: int = 16,
    seed: int = 0,
    *,
    reference_folder: Path | None = None,
    spacing_mm: float = 3.6,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write `count` phantoms as ``folder/phantom_<nnn>.nii.gz`` and their labels into `reference_folder`.

    Args:
        reference_folder: default ``<folder>-reference`` beside `folder`. It also gets ``labels.json``.
        spacing_mm: mean voxel size; 3.6 gives about 97 x 73 x 62 voxels.
        on_progress: called with (cases done, count).

    Returns:
        The image files, in order.
    """
    reference = reference_folder or folder.with_name(f"{folder.name}-reference")
    folder.mkdir(parents=True, exist_ok=True)
    reference.mkdir(parents=True, exist_ok=True)
    written = []
    for number in range(count):
        case = make_phantom(number, seed, spacing_mm=spacing_mm)
        image = folder / f"{case.name}.nii.gz"
        write_volume(image, case.voxels, case.affine, compress=True)
        write_volume(reference / image.name, case.labels, case.affine, compress=True)
        written.append(image)
        if on_progress is not None:
            on_progress(number + 1, count)
    (reference / "labels.json").write_text(json.dumps(LABELS, indent=2) + "\n")
    return written


def make_phantom(number: int, seed: int = 0, *, spacing_mm: float = 3.6) -> Phantom:
    """The case `number` of the set `seed`."""
    random = np.random.default_rng([seed, number])
    shape, affine = _grid(number, spacing_mm, random)
    points = _body_points(shape, affine, random)
    contrast = number % 2 == 1
    tissues = _vary(_VENOUS if contrast else _NATIVE, random)
    hu, labels = _paint(points, tissues, random)
    return Phantom(f"phantom_{number:03d}", _scan(hu, affine, random), labels, affine, contrast)


def with_shifted_appearance(case: Phantom, seed: int = 0, *, folds: float = 1.0, grain: float = 0.06) -> Phantom:
    """The same body as another modality shows it: what a model trained on CT has never seen.

    Intensities between -160 and 240 HU are folded, so that what is darkest and what is brightest in CT are both dark
    and tissue between them is bright; coarse grain lies on top. Values keep the range of the CT window.

    Args:
        case: a phantom; shape, labels and grid stay.
        seed: of the grain.
        folds: how often the brightness goes up and down over the range.
        grain: standard deviation of the grain, of the range.
    """
    random = np.random.default_rng([seed, int(case.labels.sum())])
    share = np.clip((case.voxels.astype(np.float32) + 160) / 400, 0, 1)
    folded = 0.5 - 0.5 * np.cos(2 * np.pi * folds * share)
    noise = ndimage.gaussian_filter(random.normal(0, 1, share.shape), 1.0)
    mixed = folded + noise / noise.std() * grain
    voxels = np.asarray(np.clip(np.rint(mixed * 400 - 160), -1024, 3071), dtype=np.int16)
    return Phantom(case.name, voxels, case.labels, case.affine, case.contrast)


def _vary(tissues: Tissues, random: np.random.Generator) -> Tissues:
    """Patients differ by some HU; a fatty liver falls to the spleen's value and below."""
    return Tissues(
        liver=tissues.liver + float(random.normal(-3, 8)),
        spleen=tissues.spleen + float(random.normal(0, 4)),
        kidney=tissues.kidney + float(random.normal(0, 5)),
        medulla=tissues.medulla + float(random.normal(0, 5)),
        vessel=tissues.vessel + float(random.normal(0, 6)),
        muscle=tissues.muscle + float(random.normal(0, 3)),
    )


def _grid(number: int, spacing_mm: float, random: np.random.Generator) -> tuple[tuple[int, int, int], Affine]:
    """Shape and affine of a case: axis order, spacing and obliqueness follow from its number, the rest is drawn."""
    in_plane = spacing_mm * float(random.uniform(0.88, 1.08))
    through = spacing_mm * float(random.uniform(0.92, 1.15))
    if number % 4 == 3:
        in_plane, through = 0.85 * in_plane, 1.9 * through
    spacing = np.array([in_plane, in_plane, through])
    extent = np.ceil(np.array(_FIELD_OF_VIEW_MM) * random.uniform(0.96, 1.04, 3) / spacing).astype(int)
    turn = _rotation(random.uniform(-14, 14, 3) + np.array([9.0, 0, 6.0])) if number % 8 == 5 else np.eye(3)
    canonical = np.eye(4)
    canonical[:3, :3] = turn * spacing
    offset = random.uniform(-12, 12, 3)
    canonical[:3, 3] = offset - canonical[:3, :3] @ ((extent - 1) / 2)
    return _stored_as(_ORIENTATIONS[number % len(_ORIENTATIONS)], extent, canonical)


def _stored_as(
    order: str, extent: NDArray[np.int_], canonical: NDArray[np.float64]
) -> tuple[tuple[int, int, int], Affine]:
    """The same box with its axes permuted and flipped, so that they run towards `order`, e.g. ``LPS``."""
    affine, shape = canonical.copy(), [0, 0, 0]
    for stored, letter in enumerate(order):
        axis = next(i for i, pair in enumerate(("RL", "AP", "SI")) if letter in pair)
        shape[stored] = int(extent[axis])
        affine[:3, stored] = canonical[:3, axis]
        if letter in "LPI":
            affine[:3, 3] += canonical[:3, axis] * (extent[axis] - 1)
            affine[:3, stored] *= -1
    # What a NIfTI header can hold: float32.
    return (shape[0], shape[1], shape[2]), affine.astype(np.float32).astype(np.float64)


def _body_points(shape: tuple[int, int, int], affine: Affine, random: np.random.Generator) -> Points:
    """Where each voxel centre lies in the body's own frame: undo pose, size and warp."""
    ijk = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float64) for n in shape), indexing="ij"), axis=-1)
    ras = ijk @ affine[:3, :3].T + affine[:3, 3]
    turn = _rotation(random.uniform(-1, 1, 3) * np.array([5, 5, 9]))
    size = random.uniform(0.9, 1.08) * random.uniform(0.95, 1.05, 3)
    points = (ras - random.uniform(-9, 9, 3)) @ turn / size
    bent = points.copy()
    for _ in range(4):
        wave = random.normal(0, 1, 3) / 55.0  # radians per mm: bends longer than an organ
        amplitude = random.normal(0, 2.6, 3)
        bent += np.sin(points @ wave + random.uniform(0, 2 * np.pi))[..., None] * amplitude
    return bent.astype(np.float32)


def _rotation(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, 3) rotation about x, then y, then z."""
    a, b, c = np.deg2rad(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Blob:
    """An ellipsoid: centre and radii in mm, turned by degrees about x, y, z."""

    center: tuple[float, float, float]
    radii: tuple[float, float, float]
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def varied(self, random: np.random.Generator, move_mm: float = 4.0, grow: float = 0.09) -> Blob:
        c = np.array(self.center) + random.normal(0, move_mm, 3)
        r = np.array(self.radii) * (1 + np.clip(random.normal(0, grow, 3), -0.2, 0.2))
        t = np.array(self.turn) + random.normal(0, 6, 3)
        return Blob(_triple(c), _triple(r), _triple(t))

    def moved(self, by: tuple[float, float, float], scale: float = 1.0) -> Blob:
        """Shifted along its own centre's axes, and scaled."""
        return Blob(_triple(np.add(self.center, by)), _triple(np.multiply(self.radii, scale)), self.turn)

    def level(self, points: Points) -> Field:
        """0 at the centre, 1 on the surface, growing outside."""
        axes_of = _rotation(np.array(self.turn))
        local = (points - np.array(self.center, dtype=np.float32)) @ (axes_of / np.array(self.radii)).astype(np.float32)
        return np.asarray(np.sqrt(np.einsum("...i,...i->...", local, local)), dtype=np.float32)

    def __call__(self, points: Points) -> Mask:
        return np.asarray(self.level(points) < 1)


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return (float(values[0]), float(values[1]), float(values[2]))


def _paint(points: Points, tissues: Tissues, random: np.random.Generator) -> tuple[Field, NDArray[np.uint8]]:
    """HU and labels without noise, from the outside in: what comes later covers what came before."""
    hu = np.full(points.shape[:3], AIR, dtype=np.float32)
    labels = np.zeros(points.shape[:3], dtype=np.uint8)
    cavity = _paint_wall(hu, points, tissues)
    _paint_gut(hu, points, cavity, random)
    stomach = Blob((-48, 34, 44), (38, 40, 46), (0, 20, 0)).varied(random)
    _paint_hollow(hu, points, stomach, cavity, random)
    _paint_back(hu, points, tissues)
    for value, inside, mean in _solid_organs(points, cavity, tissues, random):
        hu[inside] = mean
        labels[inside] = value
    _paint_lesions(hu, labels, points, tissues, random)
    gallbladder = Blob((48, 52, 8), (13, 20, 17)).varied(random)(points) & cavity
    hu[gallbladder], labels[gallbladder] = WATER, 0
    _paint_kidneys(hu, labels, points, tissues, random)
    return hu, labels


def _paint_wall(hu: Field, points: Points, tissues: Tissues) -> Mask:
    """Skin, fat, muscle wall, ribs, lung bases and the table; returns the abdominal cavity."""
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    # A body is a column: an ellipse in x and y, whatever z is.
    across = np.sqrt((x / 152) ** 2 + (y / 108) ** 2)
    hu[across < 1] = FAT
    hu[(across < 1) & (across > 0.975)] = 20.0
    hu[across < 0.89] = tissues.muscle
    cavity = np.asarray(across < 0.80)
    hu[cavity] = FAT
    rib = (across > 0.825) & (across < 0.87) & (np.mod(z - 0.35 * y, 30.0) < 11) & (z > -30)
    hu[rib] = CORTEX
    dome = 90 - 0.0013 * (x - 40) ** 2 - 0.0040 * (y - 5) ** 2
    hu[cavity & (z > dome)] = LUNG
    hu[(np.abs(y + 0.0009 * x**2 + 124) < 4) & (np.abs(x) < 160)] = -420.0
    return np.asarray(cavity & (z < dome))


def _paint_back(hu: Field, points: Points, tissues: Tissues) -> None:
    """Spine, muscles beside it, aorta and vena cava: as bright as organs, and never labelled."""
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    for side in (-1, 1):
        width = 11 + 0.07 * np.clip(60 - z, 0, 120)
        hu[np.hypot((x - side * (27 + 0.08 * np.clip(-z, 0, 99))) / 1.1, y + 54) < width] = tissues.muscle
        hu[np.hypot((x - side * 32) / 1.3, (y + 84) / 0.8) < 21] = tissues.muscle - 6
    from_axis = np.hypot(x, y + 58)
    body = from_axis < 21
    hu[body] = MARROW
    hu[body & (from_axis > 18)] = CORTEX
    hu[body & (np.mod(z, 34.0) < 7)] = DISK
    hu[(np.abs(x) < 5) & (y < -78) & (y > -98) & (np.mod(z, 34.0) > 9)] = CORTEX
    hu[np.hypot(x, y + 82) < 7] = 25.0
    hu[np.hypot(x + 11, y + 28) < 10] = tissues.vessel
    hu[np.hypot((x - 19) / 1.15, y + 26) < 11] = tissues.vessel - 4


def _paint_gut(hu: Field, points: Points, cavity: Mask, random: np.random.Generator) -> None:
    """Loops of bowel below the liver, some with gas."""
    for _ in range(28):
        center = (float(random.uniform(-85, 85)), float(random.uniform(-10, 75)), float(random.uniform(-120, -12)))
        radii = random.uniform(11, 24, 3)
        loop = Blob(center, _triple(radii), _triple(random.uniform(-90, 90, 3)))
        _paint_hollow(hu, points, loop, cavity, random)


def _paint_hollow(hu: Field, points: Points, organ: Blob, cavity: Mask, random: np.random.Generator) -> None:
    """Stomach or bowel: a wall as dense as an organ, contents between water and soft tissue, gas on top (anterior)."""
    level = organ.level(points)
    inside = (level < 1) & cavity
    hu[inside] = GUT + float(random.normal(16, 7))
    hu[inside & (level < 0.86)] = GUT + float(random.normal(4, 14))
    if random.random() < 0.5:
        surface = organ.center[1] + float(random.uniform(0.25, 0.7)) * organ.radii[1]
        hu[inside & (level < 0.86) & (points[..., 1] > surface)] = AIR + 40


def _solid_organs(
    points: Points, cavity: Mask, tissues: Tissues, random: np.random.Generator
) -> Iterator[tuple[int, Mask, float]]:
    """Spleen, then liver, as (label, where, HU)."""
    spleen = Blob((-88, -28, 34), (29, 45, 52), (18, -10, 12)).varied(random)
    hilum = Blob((-58, -6, 40), (21, 26, 34)).varied(random)
    yield LABELS["spleen"], spleen(points) & ~hilum(points) & cavity, tissues.spleen
    right = Blob((66, 2, 34), (58, 68, 66), (0, -12, -8)).varied(random)
    left = Blob((6, 46, 52), (66, 29, 31), (0, 14, -10)).varied(random)
    # A smooth union of the lobes, cut off below along an oblique plane.
    joined = np.exp(-4 * right.level(points)) + np.exp(-4 * left.level(points)) > np.exp(-4.0)
    slope = float(random.uniform(0.45, 0.7))
    edge = points[..., 2] > -58 - slope * (points[..., 0] - 70) - 0.15 * points[..., 1]
    porta = Blob((22, 6, 18), (24, 26, 30)).varied(random)
    yield LABELS["liver"], np.asarray(joined & edge & ~porta(points) & cavity), tissues.liver


def _paint_lesions(
    hu: Field, labels: NDArray[np.uint8], points: Points, tissues: Tissues, random: np.random.Generator
) -> None:
    """Up to three dark spots and a tree of vessels in the liver; they stay part of it."""
    liver = labels == LABELS["liver"]
    for _ in range(int(random.integers(0, 4))):
        center = (float(random.uniform(30, 100)), float(random.uniform(-40, 45)), float(random.uniform(-10, 75)))
        spot = Blob(center, _triple(random.uniform(5, 14, 3)))
        hu[spot(points) & liver] = tissues.liver - float(random.uniform(18, 42))
    for _ in range(5):
        start = np.array([30.0, 0.0, 45.0]) + random.normal(0, 12, 3)
        way = random.normal(0, 1, 3)
        way /= np.linalg.norm(way)
        offset = points - start.astype(np.float32)
        along = offset @ way.astype(np.float32)
        away = np.sqrt(np.maximum(np.einsum("...i,...i->...", offset, offset) - along**2, 0))
        hu[(away < 3.6) & (np.abs(along) < 55) & liver] = tissues.vessel


def _paint_kidneys(
    hu: Field, labels: NDArray[np.uint8], points: Points, tissues: Tissues, random: np.random.Generator
) -> None:
    """Both kidneys in their fat, with a sinus towards the spine and now and then a cyst."""
    for name, side, height in (("right_kidney", 1, -28), ("left_kidney", -1, -14)):
        kidney = Blob((side * 61, -44, height), (26, 23, 49), (12, side * 12, side * 20)).varied(random, 3.5)
        capsule = kidney.moved((0, 0, 0), 1.18)(points)
        hu[capsule & (labels != 0)] = FAT
        labels[capsule] = 0
        level = kidney.level(points)
        sinus = Blob(_triple(np.add(kidney.center, (-side * 19.0, 4.0, 0.0))), (15, 11, 19))(points)
        inside = (level < 1) & ~sinus
        hu[(level < 1) & sinus] = FAT + 20
        hu[inside] = tissues.kidney
        hu[inside & (level < 0.6)] = tissues.medulla
        labels[inside] = LABELS[name]
        if random.random() < 0.35:
            cyst = Blob(_triple(np.add(kidney.center, (side * 14.0, -4.0, 26.0))), (10, 10, 11))(points)
            hu[cyst & inside] = WATER


def _scan(hu: Field, affine: Affine, random: np.random.Generator) -> NDArray[np.int16]:
    """What a scanner makes of it: partial volume, texture, a slow shading, noise; whole HU from -1024 on."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    blurred = ndimage.gaussian_filter(hu, sigma=1.7 / spacing)
    grain = ndimage.gaussian_filter(random.normal(0, 1, hu.shape), sigma=2.2 / spacing)
    noise = grain / grain.std() * float(random.uniform(9, 17))
    slow = ndimage.gaussian_filter(random.normal(0, 1, hu.shape), sigma=60 / spacing, mode="wrap")
    shaded = blurred + noise + slow / slow.std() * 4.0
    return np.asarray(np.clip(np.rint(shaded), -1024, 3071), dtype=np.int16)
