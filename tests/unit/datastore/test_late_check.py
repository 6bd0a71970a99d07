"""Many labels are taken by their headers when a folder is first opened; their voxels are read afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from labelserver.datastore.local import LocalDatastore
from labelserver.domain.ids import FINAL, ImageId
from labelserver.domain.labels import LabelSource
from labelserver.domain.schema import LabelSchema
from labelserver.imaging.volumes import read_volume, write_volume
from tests.support.study_folder import AFFINE, SHAPE, put_image, put_label

OpenStore = Callable[..., LocalDatastore]
COUNT = 20


@pytest.fixture
def filled(studies: Path) -> Path:
    """Labels on their images' grids; those of 3 and 7 hold what no upload may hold."""
    for number in range(COUNT):
        put_image(studies, f"i{number:02}.nii.gz")
        put_label(studies / f"labels/final/i{number:02}.nii.gz")
    bad = studies / "labels/final"
    write_volume(bad / "i03.nii.gz", np.full(SHAPE, -1, np.int16), AFFINE, compress=True)
    write_volume(bad / "i07.nii.gz", np.full(SHAPE, np.nan, np.float32), AFFINE, compress=True)
    return studies


def test_what_no_upload_may_hold_is_set_aside_after_the_start(filled: Path, open_store: OpenStore) -> None:
    store = open_store()
    assert len(store.get_labeled_images()) == COUNT
    assert store.problems() == []
    assert not store.upkeep.check_imports(60)
    assert sorted(set(store.list_images()) - set(store.get_labeled_images())) == ["i03", "i07"]
    told = {problem.path: problem.reason for problem in store.problems()}
    assert set(told) == {"labels/final/i03.nii.gz", "labels/final/i07.nii.gz"}
    assert "set aside" in told["labels/final/i03.nii.gz"]
    assert "not numbers" in told["labels/final/i07.nii.gz"]
    assert sorted(p.name.partition("-")[2] for p in store.layout.quarantine.iterdir()) == ["i03.nii.gz", "i07.nii.gz"]
    assert [e.act.action for e in store.audit_log(100, "i03")] == ["save", "withdraw"]
    store.refresh()
    store.upkeep.look_after()
    assert len(store.problems()) == 2
    assert len(store.get_labeled_images()) == COUNT - 2


def test_the_check_goes_on_where_it_was_and_ends(filled: Path, open_store: OpenStore) -> None:
    store = open_store()
    looks = 1
    while store.upkeep.check_imports(0):
        looks += 1
        store.close()
        store = open_store()
    assert looks == COUNT + 1
    assert len(store.get_labeled_images()) == COUNT - 2
    (filled / "labels/final/i05.nii.gz").unlink()
    write_volume(filled / "labels/final/i05.nii.gz", np.zeros(SHAPE, np.uint8), AFFINE, compress=True)
    store.refresh()
    assert not store.upkeep.check_imports(0), "nothing waits, so nothing is read"


def test_a_label_that_was_saved_anew_meanwhile_is_left_alone(
    filled: Path, open_store: OpenStore, tmp_path: Path
) -> None:
    store = open_store()
    store.save_label("i03", str(put_label(tmp_path / "new.nii.gz")), "final", {})
    store.upkeep.check_imports(60)
    assert store.current_revision(ImageId("i03"), FINAL).number == 2
    assert store.get_unlabeled_images() == ["i07"]


def test_values_that_a_strict_schema_does_not_know_are_told_and_stay(filled: Path, open_store: OpenStore) -> None:
    store = open_store()
    store.set_schema(LabelSchema.from_json({"mode": "strict", "labels": [{"name": "liver", "value": 9}]}))
    store.upkeep.check_imports(60)
    assert len(store.get_labeled_images()) == COUNT - 2
    assert sum("does not know" in p.reason for p in store.problems()) == COUNT - 2


def test_floating_point_labels_are_stored_as_integers(studies: Path, open_store: OpenStore) -> None:
    for number in range(COUNT):
        put_image(studies, f"i{number:02}.nii.gz")
        put_label(studies / f"labels/final/i{number:02}.nii.gz")
    write_volume(studies / "labels/final/i04.nii.gz", np.ones(SHAPE, np.float32), AFFINE, compress=True)
    store = open_store()
    store.upkeep.check_imports(60)
    newest = store.current_revision(ImageId("i04"), FINAL)
    assert (newest.number, newest.provenance.source) == (2, LabelSource.IMPORT)
    assert read_volume(Path(store.get_label_uri("i04", "final"))).voxels.dtype == np.uint8
