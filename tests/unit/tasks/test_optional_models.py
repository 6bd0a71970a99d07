"""Models of others: what is missing is said, the licence is asked for, and VISTA-3D answers for real."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets.vista3d import vista3d132

from labelserver.domain.errors import ModelNotFound
from labelserver.domain.geometry import Grid
from labelserver.domain.prompts import MaskBox, Prompt, PromptKind
from labelserver.tasks.nninteractive import NnInteractive, flat_box
from labelserver.tasks.prompting import ClickState, PromptedImage
from labelserver.tasks.sam2 import Sam2, by_slice
from labelserver.tasks.vista3d import Vista3d
from labelserver.tasks.windows import to_ras


def point(at: tuple[float, float, float], positive: bool = True) -> Prompt:
    return Prompt(PromptKind.POINT, "organ", positive, np.array([at]))


@pytest.mark.parametrize("cls", [NnInteractive, Sam2, Vista3d])
def test_what_is_missing_disables_the_model_alone_and_is_said(cls: type, tmp_path: Path) -> None:
    task = cls(tmp_path / "none", ["organ"], licence_accepted=True)
    assert not task.is_valid()
    assert task.problem()
    assert task.info()["weights_licence"]["name"] == cls.licence.name
    with pytest.raises(ModelNotFound):
        task.require()


def test_weights_are_not_used_before_their_licence_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"weights")
    refused = Vista3d(tmp_path / "w.pt", ["organ"])
    assert "licence" in str(refused.problem())
    assert Vista3d.licence.name in str(refused.problem())
    assert Vista3d(tmp_path / "w.pt", ["organ"], licence_accepted=True).is_valid()


def test_vista3d_with_random_weights_answers_on_any_orientation(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = vista3d132(encoder_embed_dim=8)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    task = Vista3d(tmp_path / "w.pt", ["organ"], licence_accepted=True, network=network, roi=32)
    shape, affine = (24, 20, 28), np.array([[0, 0, -1.5, 5], [0, -1.5, 0, 3], [1.5, 0, 0, 0], [0, 0, 0, 1.0]])
    voxels = np.random.default_rng(0).normal(0, 100, shape).astype(np.int16)
    prepared = task.prepare(PromptedImage(voxels, Grid(shape, affine)))
    prompts = (point((12, 10, 14)), point((3, 3, 3), positive=False))
    state = ClickState(prompts, 2, np.zeros(shape, np.uint8), {"organ": 1})
    found = list(task.predict(prepared, state))
    assert found[-1].final
    again = list(task.predict(prepared, state))
    assert np.array_equal(found[-1].values, again[-1].values)


def test_axes_are_turned_to_ras() -> None:
    affine = np.array([[0, 0, -1, 5], [0, -1, 0, 3], [2, 0, 0, 0], [0, 0, 0, 1.0]])
    order, flips = to_ras(affine)
    assert (order, flips) == ((2, 1, 0), (0, 1))


def test_nninteractive_gets_half_open_flat_boxes() -> None:
    flat = Prompt(PromptKind.BOX, "organ", True, np.array([[2.0, 3, 5], [6, 9, 5]]))
    deep = Prompt(PromptKind.BOX, "organ", True, np.array([[2.0, 3, 4], [6, 9, 8]]))
    assert flat_box(flat) == [[2, 7], [3, 10], [5, 6]]
    assert flat_box(deep) == [[2, 7], [3, 10], [6, 7]]


def test_sam2_gets_prompts_slice_by_slice_as_x_and_y() -> None:
    mask = MaskBox((4, 5, 6), np.ones((1, 1, 1), bool))
    found = by_slice(
        [
            (point((1, 2, 3)), True),
            (Prompt(PromptKind.SCRIBBLE, "organ", True, mask=mask), False),
            (Prompt(PromptKind.BOX, "organ", True, np.array([[2.0, 3, 2], [6, 9, 4]])), True),
        ]
    )
    assert found[3].points == [(1.0, 2.0)]
    assert found[3].box == [2.0, 3.0, 6.0, 9.0]
    assert (found[6].points, found[6].labels) == ([(4.0, 5.0)], [0])
