"""When two grids are the same place, and how the difference is told."""

from __future__ import annotations

import numpy as np

from labelserver.domain.geometry import Grid


def grid(shape=(10, 20, 30), spacing=(1.0, 1.0, 2.5), origin=(0.0, 0.0, 0.0)) -> Grid:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    return Grid(shape, affine)


def test_spacing_is_read_from_the_columns_of_a_rotated_affine():
    angle = 0.3
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([0.7, 0.8, 3.0])
    assert np.allclose(Grid((4, 4, 4), affine).spacing_mm, (0.7, 0.8, 3.0))


def test_float32_rounding_of_a_header_is_the_same_place():
    ours = grid(spacing=(0.9765625, 0.9765625, 2.0), origin=(-249.51171875, -460.5, 1234.567))
    theirs = Grid(ours.shape, ours.affine.astype(np.float32).astype(np.float64) + 1e-4)
    assert ours.same_place(theirs)


def test_half_a_voxel_off_is_another_place():
    assert not grid().same_place(grid(origin=(0.5, 0.0, 0.0)))


def test_tiny_voxels_get_a_tighter_tolerance():
    ours = grid(spacing=(0.01, 0.01, 0.01))
    assert not ours.same_place(grid(spacing=(0.01, 0.01, 0.01), origin=(0.02, 0.0, 0.0)))


def test_the_difference_names_shape_spacing_or_distance():
    assert "shape (1, 2, 3) instead of (10, 20, 30)" in grid().difference(grid(shape=(1, 2, 3)))
    assert "spacing (1.0, 1.0, 3.0) mm" in grid().difference(grid(spacing=(1.0, 1.0, 3.0)))
    assert "7.000 mm" in grid().difference(grid(origin=(0.0, 7.0, 0.0)))
