"""A mask lands where the click was: every orientation, oblique grids, every way of saying where."""

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelserver.domain.geometry import Grid
from labelserver.domain.interaction import SessionCall, SessionVerb
from labelserver.domain.paths import Roots
from labelserver.domain.prompts import PromptFrame, PromptKind
from labelserver.imaging.volumes import read_volume, write_volume
from labelserver.tasks.interactive import InteractiveTask, Prediction
from labelserver.wire.packed_session import unpack_change
from labelserver.wire.prompts import PromptIn
from labelserver.worker.sessions import AppTasks, Sessions

SHAPE = (9, 7, 5)

#: Permutations of the axes with signs: the 48 orientations of a volume in patient space.
ORIENTATIONS = [
    (order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)
]


class Mark(InteractiveTask):
    """Marks the voxel nearest to the newest point."""

    prompt_kinds = frozenset({PromptKind.POINT})

    def __init__(self):
        super().__init__("deepgrow", {"spot": 1}, 3)

    def predict(self, prepared, clicks):
        lo = tuple(int(v) for v in np.rint(clicks.prompts[-1].points[0]))
        yield Prediction(lo, np.ones((1, 1, 1), np.uint8))


def affine_of(order, signs, spacing, angles, origin):
    """A grid whose axes point along the patient axes `order` with `signs`, turned by `angles`."""
    turned = np.eye(3)
    for axis, angle in enumerate(angles):
        c, s = np.cos(angle), np.sin(angle)
        i, j = [k for k in range(3) if k != axis]
        step = np.eye(3)
        step[i, i], step[i, j], step[j, i], step[j, j] = c, -s, s, c
        turned = step @ turned
    plain = np.zeros((3, 3))
    for axis, (row, sign) in enumerate(zip(order, signs, strict=True)):
        plain[row, axis] = sign * spacing[axis]
    affine = np.eye(4)
    affine[:3, :3] = turned @ plain
    affine[:3, 3] = origin
    return affine


def numbers_in(frame, grid, voxel):
    ras = grid.affine @ [*voxel, 1]
    return {
        PromptFrame.VOXEL: list(voxel),
        PromptFrame.RAS: [round(float(v), 4) for v in ras[:3]],
        PromptFrame.LPS: [round(float(v), 4) for v in (-ras[0], -ras[1], ras[2])],
    }[frame]


def marked_in_a_session(folder, name, grid, prompt):
    """The whole mask after one prompt, through worker and file."""
    roots = Roots(folder, folder, folder)
    (folder / "spool").mkdir(exist_ok=True)
    sessions = Sessions(AppTasks(lambda name: Mark(), lambda image: str(folder / image), lambda model: ""), roots)
    sessions.answer(SessionCall("s", SessionVerb.OPEN, "mark", "ann", image_id=name), lambda *_: None)
    call = SessionCall("s", SessionVerb.PROMPT, "mark", "ann", image_id=name, prompts=(prompt.to_domain(grid),))
    answer, shape = sessions.answer(call, lambda *_: None)
    change = unpack_change(answer.packed)
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(a, b) for a, b in zip(change.lo, change.hi, strict=True))] = change.values
    written, _ = sessions.answer(SessionCall("s", SessionVerb.WRITE, "mark", "ann", image_id=name, at=1), print)
    file = roots.resolve(written.file)
    volume = read_volume(file)
    file.unlink()
    assert (volume.voxels == mask).all()
    assert volume.grid.same_place(grid)
    return mask


@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize("ext", [".nii", ".nrrd"])
def test_every_orientation_in_every_frame(tmp_path, oblique, ext):
    rng = np.random.default_rng(4)
    for number, (order, signs) in enumerate(ORIENTATIONS):
        angles = rng.uniform(-0.6, 0.6, 3) if oblique else (0, 0, 0)
        affine = affine_of(order, signs, (0.8, 1.5, 3.0), angles, (-20, 35, 7))
        name = f"i{number}{ext}"
        write_volume(tmp_path / name, np.zeros(SHAPE, np.int16), affine, compress=False)
        grid = read_volume(tmp_path / name).grid
        voxel = [int(rng.integers(0, n)) for n in SHAPE]
        expected = np.zeros(SHAPE, np.uint8)
        expected[tuple(voxel)] = 1
        for frame in PromptFrame:
            prompt = PromptIn(kind=PromptKind.POINT, points=[numbers_in(frame, grid, voxel)], frame=frame)
            assert (marked_in_a_session(tmp_path, name, grid, prompt) == expected).all(), (order, signs, frame)
        result, _ = Mark()({"image": str(tmp_path / name), "foreground": [voxel], "result_extension": ".nrrd"})
        volume = read_volume(Path(result))
        Path(result).unlink()
        assert (volume.voxels == expected).all(), (order, signs, "/infer")
        assert volume.grid.same_place(grid)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(ORIENTATIONS),
    st.tuples(*[st.floats(0.2, 6.0)] * 3),
    st.tuples(*[st.floats(-3.1, 3.1)] * 3),
    st.tuples(*[st.floats(-500, 500)] * 3),
    st.tuples(*[st.integers(0, n - 1) for n in SHAPE]),
    st.sampled_from(list(PromptFrame)),
)
def test_a_point_in_any_frame_names_its_voxel(orientation, spacing, angles, origin, voxel, frame):
    grid = Grid(SHAPE, affine_of(*orientation, spacing, angles, origin))
    prompt = PromptIn(kind=PromptKind.POINT, points=[numbers_in(frame, grid, voxel)], frame=frame)
    assert (np.rint(prompt.to_domain(grid).points[0]) == voxel).all()


def test_a_picture_takes_two_numbers():
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "p.png"
        write_volume(file, np.zeros((12, 8, 1), np.uint8), np.eye(4), compress=True)
        grid = read_volume(file).grid
        prompt = PromptIn(kind=PromptKind.POINT, points=[[11, 3]], frame=PromptFrame.VOXEL)
        assert prompt.to_domain(grid).points.tolist() == [[11, 3, 0]]
