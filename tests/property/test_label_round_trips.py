"""Whatever grid, axis order, file type and numbering: what is stored is the upload with the recorded changes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from labelserver.datastore.local import LocalDatastore
from labelserver.domain.errors import GridsDiffer
from labelserver.domain.geometry import Grid
from labelserver.domain.ids import FINAL, ImageId
from labelserver.domain.labels import Provenance, Revision
from labelserver.imaging.reordering import AxisChange
from labelserver.imaging.seg_nrrd import read_seg_nrrd, write_seg_nrrd
from labelserver.imaging.volumes import read_volume, write_volume
from tests.property.test_reordering import CHANGES, grid_of

NAMES = ("spleen", "liver", "tumour")
COLORS = [(200, 10, 10), (10, 200, 10), (10, 10, 200)]
NUMBERS = count()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("round-trips")


@pytest.fixture(scope="module")
def store(folder: Path) -> Iterator[LocalDatastore]:
    (folder / "studies").mkdir()
    opened = LocalDatastore(folder / "studies")
    opened.learn_labels(NAMES)
    yield opened
    opened.close()


def new_image(store: LocalDatastore, grid: Grid, ext: str = ".nii.gz") -> ImageId:
    name = f"i{next(NUMBERS)}"
    path = store.layout.studies / f"{name}{ext}"
    write_volume(path, np.zeros(grid.shape, np.int16), grid.affine, compress=False)
    store.refresh_paths([path])
    return ImageId(name)


def voxels_of(path: Path) -> NDArray[Any]:
    return read_seg_nrrd(path).layers[0] if path.name.endswith(".seg.nrrd") else read_volume(path).voxels


def as_recorded(voxels: NDArray[Any], revision: Revision) -> NDArray[Any]:
    """The recorded changes, applied to the upload by nothing but numpy."""
    told: Any = revision.info.get("reordered")
    if told:
        steps = tuple(slice(None, None, -1 if back else 1) for back in told["reversed"])
        voxels = voxels.transpose(told["axes"])[steps]
    mapping: Any = revision.info.get("mapping") or {}
    result = np.zeros(voxels.shape, np.int64)
    for value in np.unique(voxels):
        result[voxels == value] = mapping.get(str(int(value)), int(value))
    return result


grids = st.builds(
    grid_of,
    st.tuples(*[st.integers(2, 6)] * 3),
    st.tuples(*[st.floats(0.4, 5.0)] * 3),
    st.tuples(*[st.floats(-30.0, 30.0)] * 3),
)


@settings(deadline=None, max_examples=60)
@given(
    grid=grids,
    ext=st.sampled_from([".nii.gz", ".nii", ".nrrd", ".seg.nrrd", ".mha"]),
    image_ext=st.sampled_from([".nii.gz", ".nrrd"]),
    change=st.sampled_from(CHANGES),
    order=st.permutations(range(3)),
    numbers=st.sampled_from([(1, 2, 3), (1, 10, 234), (7, 8, 9)]),
    seed=st.integers(0, 2**16),
)
def test_the_recorded_changes_applied_to_the_upload_give_what_is_stored(
    store: LocalDatastore,
    folder: Path,
    grid: Grid,
    ext: str,
    image_ext: str,
    change: AxisChange,
    order: list[int],
    numbers: tuple[int, int, int],
    seed: int,
) -> None:
    image_id = new_image(store, grid, image_ext)
    meant = np.random.default_rng(seed).integers(0, 4, grid.shape).astype(np.uint8)  # by the schema: 1, 2, 3
    names = [NAMES[n] for n in order]
    moved_grid = change.apply_to_grid(grid)
    upload = folder / f"upload{ext}"
    if ext == ".seg.nrrd":
        layers = np.stack([change.apply(meant) == NAMES.index(name) + 1 for name in names])
        write_seg_nrrd(upload, layers, moved_grid.affine, names, COLORS, compress=True)
        info: dict[str, Any] = {}
    else:
        sent = np.zeros(meant.shape, np.uint8)
        for number, name in zip(numbers, names, strict=True):
            sent[meant == NAMES.index(name) + 1] = number
        # all three are drawn somewhere, as the number of an empty segment can only be guessed
        sent.flat[:3], meant.flat[:3] = numbers, [NAMES.index(name) + 1 for name in names]
        write_volume(upload, change.apply(sent), moved_grid.affine, compress=True)
        info = {"label_info": [{"name": n, "idx": v} for n, v in zip(names, numbers, strict=True)]}
    revision = store.accept_label(image_id, upload, ext, FINAL, Provenance(), info)
    stored = store.revision_file(image_id, FINAL, revision.number)
    assert np.array_equal(voxels_of(stored), meant)
    assert np.array_equal(as_recorded(voxels_of(upload), revision), meant)
    if not {"mapping", "reordered"} & set(revision.info):
        assert stored.read_bytes() == upload.read_bytes()


def nifti(path: Path, sform: NDArray[np.float64] | None, qform: NDArray[np.float64] | None) -> Path:
    image = nib.Nifti1Image(np.ones((4, 5, 6), np.uint8), None)
    image.set_sform(sform, code=1 if sform is not None else 0)
    image.set_qform(qform, code=1 if qform is not None else 0)
    nib.save(image, path)
    return path


def test_sform_wins_where_qform_disagrees(store: LocalDatastore, folder: Path) -> None:
    here, elsewhere = grid_of((4, 5, 6), (1.0, 2.0, 3.0), (10.0, 0.0, 5.0)).affine, np.diag([1.0, 2.0, 3.0, 1.0])
    nifti(store.layout.studies / "forms.nii.gz", here, elsewhere)
    store.refresh()
    image_id = ImageId("forms")
    for name, sform, qform in (("both", here, elsewhere), ("sform", here, None), ("qform", None, here)):
        upload = nifti(folder / f"{name}.nii.gz", sform, qform)
        revision = store.accept_label(image_id, upload, ".nii.gz", FINAL, Provenance(), {})
        assert store.revision_file(image_id, FINAL, revision.number).read_bytes() == upload.read_bytes()
    for name, sform, qform in (("q", None, elsewhere), ("swapped", elsewhere, here)):
        upload = nifti(folder / f"{name}.nii.gz", sform, qform)
        with pytest.raises(GridsDiffer):
            store.accept_label(image_id, upload, ".nii.gz", FINAL, Provenance(), {})


@settings(deadline=None, max_examples=20)
@given(grid=grids, change=st.sampled_from(CHANGES), seed=st.integers(0, 2**16))
def test_overlapping_layers_survive_any_axis_order(
    store: LocalDatastore, folder: Path, grid: Grid, change: AxisChange, seed: int
) -> None:
    image_id = new_image(store, grid)
    meant = np.random.default_rng(seed).integers(0, 2, (3, *grid.shape)).astype(np.uint8)
    meant[:, 0, 0, 0] = 1  # at least here they overlap
    upload = folder / "layers.seg.nrrd"
    layers = np.stack([change.apply(layer) for layer in meant])
    write_seg_nrrd(upload, layers, change.apply_to_grid(grid).affine, list(NAMES), COLORS, compress=True)
    revision = store.accept_label(image_id, upload, ".seg.nrrd", FINAL, Provenance(), {})
    stored = read_seg_nrrd(store.revision_file(image_id, FINAL, revision.number))
    assert [s.name for s in stored.segments] == list(NAMES)
    assert all(np.array_equal(stored.mask(n), meant[n] == 1) for n in range(3))
    if "reordered" not in revision.info:
        assert store.revision_file(image_id, FINAL, revision.number).read_bytes() == upload.read_bytes()
