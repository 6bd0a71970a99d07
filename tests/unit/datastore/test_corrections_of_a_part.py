"""Who corrects a label of a part of the image has not looked at the rest, and nobody's part is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nrrd
import numpy as np
import pytest
from numpy.typing import NDArray

from labelserver.datastore.local import LocalDatastore
from labelserver.domain.annotation import AnnotatedPart, Boxes, Region, Slices, WholeImage
from labelserver.domain.errors import LabelChanged
from labelserver.domain.ids import FINAL, ImageId
from labelserver.domain.labels import Provenance, Revision
from labelserver.imaging.volumes import write_volume
from tests.support.study_folder import AFFINE, SHAPE, put_image

OpenStore = Callable[..., LocalDatastore]
A = ImageId("a")
NAMES = {"label_info": [{"name": "liver", "idx": 1}, {"name": "spleen", "idx": 2}]}
SILENT = AnnotatedPart(labels=(), adds=True)
WHOLE = WholeImage()


@pytest.fixture
def store(studies: Path, open_store: OpenStore) -> LocalDatastore:
    put_image(studies, "a.nii.gz")
    return open_store()


def drawn(*boxes: tuple[int, slice, slice, slice]) -> NDArray[np.uint8]:
    voxels = np.zeros(SHAPE, np.uint8)
    for value, i, j, k in boxes:
        voxels[i, j, k] = value
    return voxels


ALL = slice(None)
LIVER = drawn((1, slice(0, 2), ALL, slice(1, 2)))
BOTH = drawn((1, slice(0, 2), ALL, slice(1, 2)), (2, slice(3, 4), ALL, slice(1, 2)))


def save(store: LocalDatastore, voxels: NDArray[np.uint8], part: AnnotatedPart | None, **how: object) -> Revision:
    file = store.layout.spool / "given.nii.gz"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_volume(file, voxels, AFFINE, compress=True)
    expected = how.get("expected")
    if part is not None and part.adds and expected is None:
        expected = frozenset({store.current_revision(A, FINAL).sha256})
    assert expected is None or isinstance(expected, frozenset)
    return store.accept_label(A, file, ".nii.gz", FINAL, Provenance("Ada"), NAMES, annotated=part, expected=expected)


def region(store: LocalDatastore, revision: Revision) -> NDArray[np.bool_]:
    return store.annotated_mask(A, FINAL, revision.number)[0]


def test_a_correction_is_annotated_where_the_label_was_and_where_it_was_changed(store: LocalDatastore) -> None:
    save(store, LIVER, AnnotatedPart(("liver",), Slices(2, (1,))))
    mended = LIVER.copy()
    mended[3, 2, 4] = 1
    second = save(store, mended, SILENT)
    wanted = np.zeros(SHAPE, np.bool_)
    wanted[..., 1] = wanted[3, 2, 4] = True
    assert second.annotation.labels == ("liver",)
    assert np.array_equal(region(store, second), wanted)
    third = save(store, LIVER, SILENT)  # taking a voxel back is a look at it, too
    assert np.array_equal(region(store, third), wanted)


def test_a_label_that_the_correction_draws_was_looked_for(store: LocalDatastore) -> None:
    save(store, LIVER, AnnotatedPart(("liver",)))
    second = save(store, BOTH, SILENT)
    assert second.annotation.labels == ("liver", "spleen")
    assert second.annotation.region == WHOLE


def test_saying_that_everything_was_looked_at_makes_it_complete(store: LocalDatastore) -> None:
    save(store, LIVER, AnnotatedPart(("liver",), Slices(2, (1,))))
    assert save(store, LIVER, AnnotatedPart()).annotation.is_complete
    assert save(store, LIVER, SILENT).annotation.is_complete


@pytest.mark.parametrize(
    ("first", "second", "labels", "wanted"),
    [
        (AnnotatedPart(("liver",)), AnnotatedPart(("spleen",), adds=True), ("liver", "spleen"), WHOLE),
        (
            AnnotatedPart(("liver",), Slices(2, (1,))),
            AnnotatedPart(("liver",), Slices(2, (2,)), adds=True),
            ("liver",),
            Slices(2, (1, 2)),
        ),
        (
            AnnotatedPart(("liver",), Slices(2, (1,))),
            AnnotatedPart(("spleen",), Slices(2, (1,)), adds=True),
            ("liver", "spleen"),
            Slices(2, (1,)),
        ),
        (
            AnnotatedPart(("liver",), Slices(2, (1,))),
            AnnotatedPart(("spleen",), Boxes((((0, 0, 0), (2, 2, 2)),)), adds=True),
            ("spleen",),
            Boxes((((0, 0, 0), (2, 2, 2)),)),
        ),
        (AnnotatedPart(("liver",)), AnnotatedPart(adds=True), None, WHOLE),
        (AnnotatedPart(), AnnotatedPart(("spleen",), Slices(2, (1,)), adds=True), None, WHOLE),
        (AnnotatedPart(("liver",)), AnnotatedPart(("spleen",)), ("spleen",), WHOLE),
    ],
    ids=["other labels", "elsewhere", "other labels there", "neither", "all labels", "to a complete one", "no adds"],
)
def test_what_is_added_completes_what_was_said(
    first: AnnotatedPart, second: AnnotatedPart, labels: tuple[str, ...] | None, wanted: Region, store: LocalDatastore
) -> None:
    save(store, BOTH, first)
    made = save(store, BOTH, second)
    assert (made.annotation.labels, made.annotation.region) == (labels, wanted)


def test_a_correction_of_an_older_label_is_refused_and_one_of_none_is_complete(store: LocalDatastore) -> None:
    first = save(store, LIVER, SILENT, expected=frozenset())
    assert first.annotation.is_complete
    save(store, BOTH, AnnotatedPart(("liver",)))
    with pytest.raises(LabelChanged):
        save(store, LIVER, SILENT, expected=frozenset({first.sha256}))


def test_segments_that_overlap_are_compared_one_by_one(store: LocalDatastore) -> None:
    def segments(liver: NDArray[np.uint8], spleen: NDArray[np.uint8]) -> Path:
        header: dict[str, object] = {"space": "right-anterior-superior", "kinds": ["list", *["domain"] * 3]}
        header |= {"space directions": np.vstack([np.full(3, np.nan), AFFINE[:3, :3]]), "space origin": AFFINE[:3, 3]}
        for number, name in enumerate(("liver", "spleen")):
            header |= {f"Segment{number}_{key}": value for key, value in (("Name", name), ("ID", name))}
            header |= {f"Segment{number}_Layer": str(number), f"Segment{number}_LabelValue": "1"}
        file = store.layout.spool / "given.seg.nrrd"
        file.parent.mkdir(parents=True, exist_ok=True)
        nrrd.write(str(file), np.stack([liver, spleen]), header)
        return file

    liver, spleen = (BOTH == 1).astype(np.uint8), (BOTH == 2).astype(np.uint8)
    part = AnnotatedPart(("liver",), Slices(2, (1,)))
    first = store.accept_label(A, segments(liver, spleen), ".seg.nrrd", FINAL, Provenance(), {}, annotated=part)
    spleen[1, 1, 3] = 1
    expected = frozenset({first.sha256})
    file = segments(liver, spleen)
    made = store.accept_label(A, file, ".seg.nrrd", FINAL, Provenance(), {}, annotated=SILENT, expected=expected)
    wanted = np.zeros(SHAPE, np.bool_)
    wanted[..., 1] = wanted[1, 1, 3] = True
    assert np.array_equal(region(store, made), wanted)
    assert made.annotation.labels == ("liver", "spleen")


def test_a_lost_mask_is_not_made_up(store: LocalDatastore) -> None:
    odd = np.indices(SHAPE).sum(axis=0) % 2 == 0
    mask = store.layout.spool / "mask.nii.gz"
    mask.parent.mkdir(parents=True, exist_ok=True)
    write_volume(mask, odd.astype(np.uint8), AFFINE, compress=True)
    first = save(store, LIVER, AnnotatedPart(("liver",), mask=mask))
    next(store.revision_file(A, FINAL, 1).parent.glob("*.annotated")).unlink()
    second = save(store, BOTH, SILENT)
    assert second.annotation == first.annotation


def test_a_damaged_earlier_label_does_not_cost_its_correction(store: LocalDatastore) -> None:
    first = save(store, LIVER, AnnotatedPart(("liver",), Slices(2, (1,))))
    for ruin in (lambda file: file.write_bytes(b"noise"), Path.unlink):
        ruin(store.revision_file(A, FINAL, store.current_revision(A, FINAL).number))
        made = save(store, BOTH, SILENT)
        assert made.annotation == first.annotation
