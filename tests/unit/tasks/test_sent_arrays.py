"""Old-style tasks see the spacing of an array that a client sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelserver.imaging import arrays
from labelserver.imaging.volumes import read_volume
from labelserver.tasks.base import InferTask
from labelserver.tasks.prompted_infer import as_prompted
from labelserver.tasks.prompting import PromptedImage


class Clicks(InferTask):
    """Of a type that is guided by clicks."""

    def is_valid(self) -> bool:
        return True

    def __call__(self, request: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        raise NotImplementedError


@pytest.mark.parametrize("dtype", ["int16", "uint8", "bool", "float16", "float32", "float64", "int64"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 5)])
def test_an_array_becomes_a_file_that_every_reader_understands(
    tmp_path: Path, dtype: str, shape: tuple[int, ...]
) -> None:
    sent = (np.arange(np.prod(shape)) % 2).reshape(shape).astype(dtype)
    arrays.create(tmp_path / "image.npy", shape, sent.dtype, (3.0, 1.5, 0.5))[:] = sent
    task = as_prompted(Clicks("deepedit", ["organ"], 3))
    assert task is not None
    grid = arrays.read_grid(tmp_path / "image.npy")
    for _ in range(2):
        opened = task.prepare(PromptedImage(np.zeros((0, 0, 0)), grid, str(tmp_path / "image.npy")))
    seen = read_volume(Path(opened.path))
    np.testing.assert_array_equal(seen.voxels, sent if sent.ndim == 3 else np.moveaxis(sent, 0, -1))
    assert seen.grid.spacing_mm == pytest.approx((3.0, 1.5, 0.5))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.nii", "image.npy"]


def test_other_files_are_opened_as_they_are(tmp_path: Path) -> None:
    task = as_prompted(Clicks("deepedit", ["organ"], 3))
    assert task is not None
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 4)))
    grid = arrays.read_grid(tmp_path / "a.npy")
    assert task.prepare(PromptedImage(np.zeros((0, 0, 0)), grid, "ct.nii.gz")).path == "ct.nii.gz"
