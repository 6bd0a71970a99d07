"""A closed surface round a mask, as triangles, and as a binary STL file.

Surface nets (S. F. Gibson, "Constrained elastic surface nets", 1998): one vertex in each cell of eight voxels that the
surface passes, at the mean of the crossings of the cell's edges; one quadrilateral for each edge of the voxel grid
whose ends differ. Every edge is shared by an even number of triangles, so the surface is closed.
"""

from __future__ import annotations

import itertools
import struct

import numpy as np
from numpy.typing import NDArray

Triangles = NDArray[np.float64]  #: (N, 3 corners, 3)

_HEADER = struct.Struct("<80sI")
_FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def surface_of(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> Triangles:
    """Triangles round the true voxels, corners counter-clockwise when seen from outside.

    Args:
        mask: (I, J, K).
        affine: (4, 4), voxel indices to the frame that the corners shall be in.

    Returns:
        (N, 3, 3); empty for an empty mask.
    """
    if not mask.any():
        return np.zeros((0, 3, 3))
    occupied = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    low = np.array([found[0] for found in occupied])
    box = tuple(slice(int(found[0]), int(found[-1]) + 1) for found in occupied)
    padded = np.pad(mask[box], 1)
    vertices, numbers = _vertices(padded)
    triangles = np.concatenate([_faces(padded, numbers, axis) for axis in range(3)])
    corners = vertices[triangles] + (low - 1)
    placed: Triangles = corners @ affine[:3, :3].T + affine[:3, 3]
    return placed[:, ::-1] if np.linalg.det(affine[:3, :3]) < 0 else placed


def _vertices(padded: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Positions in voxels, and for each cell (of voxel (i, j, k) and its seven neighbours) its vertex's number."""
    size = np.array(padded.shape) - 1
    total, count = np.zeros((*size, 3)), np.zeros(size, np.int64)
    for axis in range(3):
        others = [a for a in range(3) if a != axis]
        for offset in itertools.product((0, 1), repeat=2):
            start = np.zeros(3, np.int64)
            start[others] = offset
            near = tuple(slice(int(s), int(s + n)) for s, n in zip(start, size, strict=True))
            step = start + np.eye(3, dtype=np.int64)[axis]
            far = tuple(slice(int(s), int(s + n)) for s, n in zip(step, size, strict=True))
            crossed = padded[near] != padded[far]
            middle = start.astype(np.float64)
            middle[axis] += 0.5
            total[crossed] += middle
            count += crossed
    used = count > 0
    numbers = np.full(size, -1, np.int64)
    numbers[used] = np.arange(int(used.sum()))
    return np.argwhere(used) + total[used] / count[used][:, None], numbers


def _faces(padded: NDArray[np.bool_], numbers: NDArray[np.int64], axis: int) -> NDArray[np.int64]:
    """(N, 3) vertex numbers: two triangles for each edge along `axis` whose ends differ."""
    near = np.take(padded, range(padded.shape[axis] - 1), axis)
    far = np.take(padded, range(1, padded.shape[axis]), axis)
    edges = np.argwhere(near != far)
    inside_near = near[tuple(edges.T)]
    one, two = np.eye(3, dtype=np.int64)[(axis + 1) % 3], np.eye(3, dtype=np.int64)[(axis + 2) % 3]
    ring = [edges - one - two, edges - two, edges, edges - one]  # round the edge, counter-clockwise about +axis
    a, b, c, d = (numbers[tuple(cell.T)] for cell in ring)
    outward = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    flipped = ~np.concatenate([inside_near, inside_near])
    outward[flipped] = outward[flipped][:, ::-1]
    return outward


def volume_of(triangles: Triangles) -> float:
    """Of what a closed surface encloses, in cubed units of its corners; negative if it is inside out."""
    return float(np.einsum("ij,ij->", triangles[:, 0], np.cross(triangles[:, 1], triangles[:, 2])) / 6.0)


def stl_of(triangles: Triangles, title: str) -> bytes:
    """Binary STL: 80 bytes of title, the number of facets, 50 bytes each."""
    facets = np.zeros(len(triangles), _FACET)
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    facets["normal"] = normals / np.where(lengths > 0, lengths, 1.0)
    facets["corners"] = triangles
    return _HEADER.pack(title.encode("ascii", "replace")[:80].ljust(80), len(triangles)) + facets.tobytes()
