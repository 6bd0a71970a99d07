"""The 48 axis orders and signs: a re-ordered label lands voxel for voxel, and nothing else is taken for one."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from labelserver.domain.geometry import Grid
from labelserver.imaging.reordering import AxisChange, axis_change, orientation_code
from labelserver.imaging.volumes import read_volume, write_volume

CHANGES = [
    AxisChange((order[0], order[1], order[2]), (signs[0], signs[1], signs[2]))
    for order in permutations(range(3))
    for signs in product((False, True), repeat=3)
]


def rotation(angles_deg: tuple[float, float, float]) -> NDArray[np.float64]:
    """(3, 3): turns about x, y, z in this order."""
    result = np.eye(3)
    for axis, angle in enumerate(np.radians(angles_deg)):
        a, b = [n for n in range(3) if n != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        result = turn @ result
    return result


def grid_of(shape: tuple[int, int, int], spacing: tuple[float, ...], angles: tuple[float, float, float]) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = rotation(angles) @ np.diag(spacing)
    affine[:3, 3] = (-31.5, 112.25, 640.125)
    return Grid(shape, affine)


def test_there_are_48_axis_changes() -> None:
    assert len(set(CHANGES)) == 48


@pytest.mark.parametrize("ext", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (11.0, -23.0, 7.5)], ids=["straight", "oblique"])
def test_each_axis_change_is_found_and_undone_exactly(
    ext: str, angles: tuple[float, float, float], tmp_path: Path
) -> None:
    image = grid_of((5, 6, 7), (0.9, 1.3, 4.0), angles)
    truth = np.random.default_rng(7).integers(0, 5, image.shape).astype(np.uint8)
    for number, change in enumerate(CHANGES):
        path = tmp_path / f"{number}{ext}"
        write_volume(path, change.apply(truth), change.apply_to_grid(image).affine, compress=False)
        sent = read_volume(path)
        back = axis_change(sent.grid, image)
        assert back is not None, change
        assert np.array_equal(back.apply(sent.voxels), truth), change
        assert back.is_identity == change.is_identity


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6.0)] * 3),
    angles=st.tuples(*[st.floats(-30.0, 30.0)] * 3),
    change=st.sampled_from(CHANGES),
)
def test_every_voxel_keeps_its_place(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    angles: tuple[float, float, float],
    change: AxisChange,
) -> None:
    image = grid_of(shape, spacing, angles)
    world = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1) @ image.affine[:3, :3].T
    moved_grid = change.apply_to_grid(image)
    moved_world = change.apply(world + image.affine[:3, 3])
    ijk = np.stack(np.meshgrid(*[np.arange(n) for n in moved_grid.shape], indexing="ij"), axis=-1)
    assert np.allclose(ijk @ moved_grid.affine[:3, :3].T + moved_grid.affine[:3, 3], moved_world, atol=1e-9)
    back = axis_change(moved_grid, image)
    assert back is not None
    assert back.apply_to_grid(moved_grid).same_place(image)


@settings(deadline=None, max_examples=60)
@given(shift=st.floats(0.2, 50.0), axis=st.integers(0, 2), change=st.sampled_from(CHANGES))
def test_a_shifted_grid_is_never_taken_for_a_reordered_one(shift: float, axis: int, change: AxisChange) -> None:
    image = grid_of((6, 6, 6), (1.0, 1.0, 1.0), (4.0, 5.0, 6.0))
    moved = change.apply_to_grid(image)
    affine = moved.affine.copy()
    affine[axis, 3] += shift
    assert axis_change(Grid(moved.shape, affine), image) is None


def test_orientation_code_names_the_nearest_directions() -> None:
    assert orientation_code(Grid((2, 2, 2), np.eye(4))) == "RAS"
    assert orientation_code(Grid((2, 2, 2), np.diag([-1.0, -1.0, 1.0, 1.0]))) == "LPS"
    assert orientation_code(grid_of((4, 4, 4), (1.0, 1.0, 3.0), (20.0, 0.0, 10.0))) == "RAS"
