"""A label that was drawn in a part of the image says so, and keeps saying so wherever the revision goes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from labelserver.datastore.exchange.cases import find_cases
from labelserver.datastore.exchange.exporting import ExportLayout, export
from labelserver.datastore.exchange.importing import carry_out, plan_import
from labelserver.datastore.exchange.snapshots import adopt_schema, read, take
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.annotation import COMPLETE, AnnotatedPart, Boxes, MaskFile, Slices, WholeImage
from labelserver.domain.errors import GridsDiffer, InvalidParams, StoredDataInvalid, UnknownLabelName
from labelserver.domain.ids import FINAL, ImageId
from labelserver.domain.labels import LabelSource, Provenance, Revision
from labelserver.domain.schema import LabelSchema, SchemaMode
from labelserver.imaging.volumes import read_volume, write_volume
from tests.support.study_folder import AFFINE, SHAPE, put_image, put_label

OpenStore = Callable[..., LocalDatastore]
A = ImageId("a")
LIVER = {"label_info": [{"name": "liver", "idx": 1}]}


@pytest.fixture
def store(studies: Path, open_store: OpenStore) -> LocalDatastore:
    put_image(studies, "a.nii.gz")
    return open_store()


def save(
    store: LocalDatastore, file: Path, part: AnnotatedPart | None, info: dict[str, object] | None = None
) -> Revision:
    return store.accept_label(A, file, ".nii.gz", FINAL, Provenance("Ada"), info or {}, annotated=part)


def checkers() -> np.ndarray:
    """A region that no box and no slices tell."""
    return np.indices(SHAPE).sum(axis=0) % 2 == 0


def mask_file(path: Path, mask: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    write_volume(path, mask.astype(np.uint8), affine, compress=True)
    return path


def test_a_label_without_a_part_is_complete_and_stored_as_before(store: LocalDatastore, tmp_path: Path) -> None:
    revision = save(store, put_label(tmp_path / "l.nii.gz"), None)
    assert revision.annotation.is_complete
    assert revision.info == {}
    kept = store.revision_file(A, FINAL, 1)
    assert sorted(p.name for p in kept.parent.iterdir()) == ["1.json", "1.nii.gz"]
    assert store.annotated_mask(A, FINAL, 1)[0].all()


def test_slices_and_labels_are_kept_by_number_and_schema_id(store: LocalDatastore, tmp_path: Path) -> None:
    part = AnnotatedPart(("liver", "Spleen"), Slices(2, (1, 2)))
    revision = save(store, put_label(tmp_path / "l.nii.gz"), part, LIVER)
    assert revision.annotation.labels == ("liver", "Spleen")
    assert [entry.name for entry in store.schema().entries] == ["liver", "Spleen"]
    assert revision.schema_version == store.schema().version
    assert revision.annotation.region == Slices(2, (1, 2))
    mask = store.annotated_mask(A, FINAL, 1)[0]
    assert mask[..., 1:3].all()
    assert mask.sum() == 2 * SHAPE[0] * SHAPE[1]
    assert not list(store.revision_file(A, FINAL, 1).parent.glob("*.annotated"))


def test_the_region_moves_with_the_axes_of_the_label(store: LocalDatastore, tmp_path: Path) -> None:
    flip = np.diag([-1.0, 1.0, -1.0, 1.0])
    flip[:3, 3] = (SHAPE[0] - 1, 0, SHAPE[2] - 1)
    truth = np.zeros(SHAPE, np.uint8)
    truth[0, :, 4] = 1
    write_volume(tmp_path / "l.nii.gz", truth[::-1, :, ::-1], AFFINE @ flip, compress=True)
    boxes = Boxes((((2, 0, 0), (4, 5, 2)),))
    assert save(store, tmp_path / "l.nii.gz", AnnotatedPart(None, boxes)).annotation.region == Boxes(
        (((0, 0, 4), (2, 5, 6)),)
    )
    own = mask_file(tmp_path / "m.nii.gz", checkers()[::-1, :, ::-1], AFFINE @ flip)
    save(store, tmp_path / "l.nii.gz", AnnotatedPart(mask=own))
    assert np.array_equal(store.annotated_mask(A, FINAL, 2)[0], checkers())
    voxels = truth.copy()
    voxels[~checkers()] = 255
    write_volume(tmp_path / "l.nii.gz", voxels[::-1, :, ::-1], AFFINE @ flip, compress=True)
    save(store, tmp_path / "l.nii.gz", AnnotatedPart(voxels_255=True))
    assert np.array_equal(store.annotated_mask(A, FINAL, 3)[0], checkers())
    assert np.array_equal(read_volume(store.revision_file(A, FINAL, 3)).voxels, truth * checkers())


def test_voxels_of_255_become_background_outside_of_the_region(store: LocalDatastore, tmp_path: Path) -> None:
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[1:3], voxels[..., 3:] = 1, 255
    write_volume(tmp_path / "l.nii.gz", voxels, AFFINE, compress=True)
    revision = save(store, tmp_path / "l.nii.gz", AnnotatedPart(voxels_255=True), LIVER)
    assert revision.annotation.region == Slices(2, (0, 1, 2))
    assert revision.info["mapping"] == {"1": 1, "255": 0}
    stored = read_volume(store.revision_file(A, FINAL, 1)).voxels
    assert np.array_equal(stored, np.where(voxels == 255, 0, voxels))
    assert store.schema().values() == {"liver": 1}
    revision = save(store, tmp_path / "l.nii.gz", AnnotatedPart(None, Slices(0, (0, 1)), voxels_255=True), LIVER)
    assert revision.annotation.region == Boxes((((0, 0, 0), (2, 5, 3)),))


def test_a_255_that_has_a_name_or_comes_without_the_word_is_a_label(store: LocalDatastore, tmp_path: Path) -> None:
    file = put_label(tmp_path / "l.nii.gz", 255)
    named = {"label_info": [{"name": "bone", "idx": 255}]}
    for part, info in ((AnnotatedPart(voxels_255=True), named), (None, {})):
        revision = save(store, file, part, info)
        assert revision.annotation.is_complete
        assert read_volume(store.revision_file(A, FINAL, revision.number)).voxels.any()


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (AnnotatedPart(None, Slices(2, (6,))), "no slice 6"),
        (AnnotatedPart(None, Boxes((((0, 0, 0), (5, 1, 1)),))), "leaves the grid"),
        (AnnotatedPart(None, Boxes((((1, 0, 0), (1, 1, 1)),))), "empty"),
        (AnnotatedPart(None, MaskFile("0" * 64, 3)), "annotated_mask"),
    ],
)
def test_a_part_that_is_none_of_the_image_changes_nothing(
    part: AnnotatedPart, words: str, store: LocalDatastore, tmp_path: Path
) -> None:
    with pytest.raises(InvalidParams, match=words):
        save(store, put_label(tmp_path / "l.nii.gz"), part)
    assert store.revisions(A, FINAL) == []


def test_a_mask_of_nothing_or_of_another_grid_and_an_unknown_name_are_refused(
    store: LocalDatastore, tmp_path: Path
) -> None:
    file = put_label(tmp_path / "l.nii.gz")
    nothing = mask_file(tmp_path / "m.nii.gz", np.zeros(SHAPE, np.bool_))
    with pytest.raises(InvalidParams, match="Nothing"):
        save(store, file, AnnotatedPart(mask=nothing))
    other = mask_file(tmp_path / "o.nii.gz", np.ones((2, 2, 2), np.bool_))
    with pytest.raises(GridsDiffer):
        save(store, file, AnnotatedPart(mask=other))
    store.set_schema(LabelSchema.from_json({"mode": "strict", "labels": [{"name": "liver", "value": 1}]}))
    assert store.schema().mode is SchemaMode.STRICT
    with pytest.raises(UnknownLabelName):
        save(store, file, AnnotatedPart(("heart",)))
    json_file = tmp_path / "l.json"
    json_file.write_text("{}")
    with pytest.raises(InvalidParams, match="no voxels"):
        store.accept_label(A, json_file, ".json", FINAL, Provenance(), {}, annotated=AnnotatedPart(("liver",)))
    assert store.revisions(A, FINAL) == []


def partly(store: LocalDatastore, tmp_path: Path) -> Revision:
    """A revision whose region takes a mask."""
    mask = mask_file(tmp_path / "m.nii.gz", checkers())
    return save(store, put_label(tmp_path / "l.nii.gz"), AnnotatedPart(("liver",), mask=mask), LIVER)


def test_a_client_cannot_forge_the_note(store: LocalDatastore, tmp_path: Path) -> None:
    forged = {"annotated": {"labels": None, "region": {"kind": "slices", "axis": 0, "slices": [0]}}}
    assert save(store, put_label(tmp_path / "l.nii.gz"), None, forged).annotation.is_complete


def test_the_region_outlives_the_index_and_is_restored(
    store: LocalDatastore, tmp_path: Path, studies: Path, open_store: OpenStore
) -> None:
    first = partly(store, tmp_path)
    save(store, put_label(tmp_path / "n.nii.gz"), None, LIVER)
    third = store.restore_revision(A, FINAL, 1, Provenance("Bob", source=LabelSource.RESTORE))
    assert third.annotation == first.annotation
    assert np.array_equal(store.annotated_mask(A, FINAL, 3)[0], checkers())
    store.close()
    for part in store.layout.state.glob("index.sqlite*"):
        part.unlink()
    again = open_store()
    assert [r.annotation for r in again.revisions(A, FINAL)] == [first.annotation, COMPLETE, first.annotation]
    assert np.array_equal(again.annotated_mask(A, FINAL, 1)[0], checkers())


def test_an_outside_edit_keeps_the_part_that_was_annotated_and_adds_what_it_changed(
    store: LocalDatastore, tmp_path: Path
) -> None:
    first = partly(store, tmp_path)
    before = read_volume(store.revision_file(A, FINAL, 1)).voxels
    voxels = before.copy()
    voxels[3] = 1
    write_volume(Path(store.get_label_uri("a", "final")), voxels, AFFINE, compress=True)
    store.refresh()
    newest = store.current_revision(A, FINAL)
    assert newest.provenance.source is LabelSource.OUTSIDE_EDIT
    assert newest.annotation.labels == first.annotation.labels
    changed = voxels != before
    assert changed[~checkers()].any()
    assert np.array_equal(store.annotated_mask(A, FINAL, newest.number)[0], checkers() | changed)


def test_a_diff_counts_what_both_annotated(store: LocalDatastore, tmp_path: Path) -> None:
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[0] = 1
    write_volume(tmp_path / "l.nii.gz", voxels, AFFINE, compress=True)
    names = {"label_info": [{"name": "liver", "idx": 1}, {"name": "spleen", "idx": 2}]}
    save(store, tmp_path / "l.nii.gz", AnnotatedPart(("liver",), Slices(2, (0, 1))), names)
    voxels[1], voxels[2] = 1, 2
    write_volume(tmp_path / "l.nii.gz", voxels, AFFINE, compress=True)
    save(store, tmp_path / "l.nii.gz", AnnotatedPart(None, Slices(2, (1, 2, 3))), names)
    diff = store.diff_revisions(A, FINAL, 1, 2)
    assert [(c.name, c.before, c.after, c.added) for c in diff.labels] == [("liver", 5, 10, 5)]
    assert (diff.changed_voxels, diff.first_ijk, diff.last_ijk) == (5, (1, 0, 1), (1, 4, 1))
    assert (diff.compared_voxels, diff.not_compared) == (SHAPE[0] * SHAPE[1], ("spleen",))
    save(store, tmp_path / "l.nii.gz", None, names)
    save(store, tmp_path / "l.nii.gz", None, names)
    whole = store.diff_revisions(A, FINAL, 3, 4)
    assert (whole.compared_voxels, whole.not_compared) == (None, ())


def test_a_snapshot_brings_regions_along_and_has_the_same_hash(store: LocalDatastore, tmp_path: Path) -> None:
    partly(store, tmp_path)
    store.accept_label(A, put_label(tmp_path / "s.nii.gz"), ".nii.gz", FINAL, Provenance(), LIVER, annotated=None)
    whole = take(store).hash
    partly(store, tmp_path)
    done = export(store, tmp_path / "one", ExportLayout.SNAPSHOT)
    assert done.snapshot.hash != whole
    assert (tmp_path / "one" / "annotated" / "final" / "a.annotated").is_file()
    known = read(tmp_path / "one")
    assert known is not None
    assert known.hash == done.snapshot.hash
    (tmp_path / "other").mkdir()
    other = LocalDatastore(tmp_path / "other")
    assert adopt_schema(other, known, "Ada") == ""
    plan = plan_import(other, find_cases(tmp_path / "one"))
    assert carry_out(other, plan, "Ada") == []
    assert take(other).hash == done.snapshot.hash
    assert np.array_equal(other.annotated_mask(A, FINAL, 1)[0], checkers())
    assert plan_import(other, find_cases(tmp_path / "one")).takes == []
    other.close()
    in_place = LocalDatastore(tmp_path / "one")
    assert np.array_equal(in_place.annotated_mask(A, FINAL, 1)[0], checkers())
    in_place.close()


def test_flat_layouts_leave_partly_annotated_labels_out_and_say_so(store: LocalDatastore, tmp_path: Path) -> None:
    partly(store, tmp_path)
    done = export(store, tmp_path / "one", ExportLayout.NNUNET)
    assert done.labels == 0
    assert "annotated in part" in done.left_out[0]


def test_a_mask_that_was_changed_is_found_and_set_aside(store: LocalDatastore, tmp_path: Path) -> None:
    partly(store, tmp_path)
    assert store.upkeep.verify().findings == []
    mask = store.revision_file(A, FINAL, 1).with_name("1.annotated")
    mask.write_bytes(mask.read_bytes()[:-12])
    assert [f.path.rpartition("/")[2] for f in store.upkeep.verify().findings] == ["1.annotated"]
    with pytest.raises(StoredDataInvalid):
        store.annotated_mask(A, FINAL, 1)
    mask.unlink()
    assert ["No training uses" in p.reason for p in store.upkeep.look_after()] == [True]


def test_pruning_and_erasing_reach_the_mask(store: LocalDatastore, tmp_path: Path) -> None:
    partly(store, tmp_path)
    folder = store.revision_file(A, FINAL, 1).parent
    save(store, put_label(tmp_path / "n.nii.gz"), None)
    store.upkeep.prune(store.upkeep.prunable(1, (), 0, 0), "Ada")
    assert sorted(p.name for p in folder.iterdir()) == ["2.json", "2.nii.gz"]
    partly(store, tmp_path)
    store.upkeep.erase(store.upkeep.plan_erasure("a"), "Ada")
    assert not folder.exists()


def test_the_description_tells_what_was_annotated(store: LocalDatastore, tmp_path: Path) -> None:
    revision = partly(store, tmp_path)
    told = json.loads(store.revision_file(A, FINAL, 1).with_name("1.json").read_bytes())["info"]["annotated"]
    assert told == revision.annotation.to_json()
    assert isinstance(revision.annotation.region, MaskFile)
    assert revision.annotation.region.voxels == checkers().sum()
    assert WholeImage() != revision.annotation.region
