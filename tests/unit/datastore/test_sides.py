"""Every image has a side from the day it is first seen, and keeps it whatever happens to its name or the index."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from labelserver.contracts.splits import SplitStore
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.errors import InvalidSetting
from labelserver.domain.ids import FINAL, ImageId
from labelserver.domain.labels import Provenance
from labelserver.domain.splits import Side
from labelserver.imaging.content_hashes import content_hash
from labelserver.imaging.volumes import write_volume
from tests.support.study_folder import AFFINE, SHAPE, put_label, put_series

OpenStore = Callable[..., LocalDatastore]


def put(folder: Path, name: str, content: int, dtype: type = np.int16) -> Path:
    """An image whose voxels say `content`."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.arange(np.prod(SHAPE)).reshape(SHAPE) + content
    write_volume(path, voxels.astype(dtype), AFFINE, compress=name.endswith(".gz"))
    return path


def sides(store: LocalDatastore) -> dict[str, str]:
    listed = store.list_images()
    return {image_id: side.side.value for image_id, side in store.sides(listed).items()}


def test_every_image_has_a_side_labelled_or_not(studies: Path, open_store: OpenStore) -> None:
    for number in range(40):
        put(studies, f"ct_{number:02}.nii.gz", number)
    store = open_store()
    assert isinstance(store, SplitStore)
    found = sides(store)
    assert len(found) == 40
    assert 1 <= sum(side == "held_out" for side in found.values()) <= 20
    store.accept_label(ImageId("ct_00"), put_label(studies.parent / "l.nii.gz"), ".nii.gz", FINAL, Provenance(), {})
    assert sides(store) == found


def test_a_side_outlives_more_images_another_opening_and_the_loss_of_the_index(
    studies: Path, open_store: OpenStore
) -> None:
    for number in range(20):
        put(studies, f"ct_{number:02}.nii.gz", number)
    before = sides(open_store())
    for number in range(20, 40):
        put(studies, f"a_{number}.nii.gz", number)
    with_more = sides(open_store())
    assert {image_id: with_more[image_id] for image_id in before} == before
    for part in (studies / ".labelserver").glob("index.sqlite*"):
        part.unlink()
    assert sides(open_store()) == with_more


def test_a_lost_split_key_is_taken_from_the_index(studies: Path, open_store: OpenStore) -> None:
    put(studies, "a.nii.gz", 0)
    open_store()
    file = studies / ".labelserver" / "split.json"
    kept = json.loads(file.read_text())
    file.unlink()
    put(studies, "b.nii.gz", 1)
    open_store()
    assert json.loads(file.read_text()) == kept


def test_two_images_are_enough_for_one_on_each_side(studies: Path, open_store: OpenStore) -> None:
    for number in range(2):
        put(studies, f"ct_{number}.nii.gz", number)
    assert sorted(sides(open_store()).values()) == ["held_out", "training"]


def test_images_that_come_one_by_one_are_soon_on_both_sides(studies: Path, open_store: OpenStore) -> None:
    store = open_store()
    for number in range(2):
        store.add_image(f"ct_{number}", str(put(studies.parent, "upload.nii.gz", number)), {})
    assert sides(store) == {"ct_0": "training", "ct_1": "held_out"}


def test_all_images_of_a_bids_subject_are_on_one_side(studies: Path, open_store: OpenStore) -> None:
    for subject in range(12):
        for session in range(3):
            name = f"sub-{subject:02}/ses-{session}/sub-{subject:02}_ses-{session}_T1w.nii.gz"
            put(studies, name, subject * 10 + session)
    found = sides(open_store())
    assert set(found.values()) == {"training", "held_out"}
    for subject in range(12):
        assert len({side for name, side in found.items() if name.startswith(f"sub-{subject:02}/")}) == 1


def test_all_series_of_a_dicom_patient_are_on_one_side(studies: Path, open_store: OpenStore) -> None:
    for patient in range(8):
        for series in range(2):
            folder = studies / f"p{patient}-{series}"
            put_series(folder, f"1.2.{patient}.{series}", PatientID=f"patient {patient}")
    found = sides(open_store())
    assert len(found) == 16
    for patient in range(8):
        assert found[f"p{patient}-0"] == found[f"p{patient}-1"]
    kept = (studies / ".labelserver" / "sides.jsonl").read_text()
    assert "patient 3" not in kept


def test_a_pattern_names_the_patient_in_the_path(studies: Path, open_store: OpenStore) -> None:
    for patient in range(10):
        for visit in range(2):
            put(studies, f"{patient}-{visit}.nii.gz", patient * 10 + visit)
    found = sides(open_store(patient_pattern=r"^(\d+)-"))
    for patient in range(10):
        assert found[f"{patient}-0"] == found[f"{patient}-1"]


def test_a_pattern_that_is_no_expression_is_refused(studies: Path, open_store: OpenStore) -> None:
    put(studies, "a.nii.gz", 0)
    with pytest.raises(InvalidSetting, match="PATIENT_PATTERN"):
        open_store(patient_pattern="(")


def test_the_same_voxels_under_two_names_are_told_and_stay_on_one_side(studies: Path, open_store: OpenStore) -> None:
    for number in range(16):
        put(studies, f"a_{number:02}.nii.gz", number)
    first = sides(open_store())
    for number in range(16):
        put(studies, f"b_{number:02}.nii", number, np.float32)
    store = open_store()
    found = store.sides(store.list_images())
    for number in range(16):
        again = found[f"b_{number:02}"]
        assert again.side == first[f"a_{number:02}"]
        assert again.duplicate_of == f"a_{number:02}"
        assert found[f"a_{number:02}"].duplicate_of == ""


def test_duplicates_that_arrive_together_are_one_case(studies: Path, open_store: OpenStore) -> None:
    for number in range(24):
        put(studies, f"{'ab'[number % 2]}_{number // 2}.nii.gz", number // 2)
    found = sides(open_store())
    assert set(found.values()) == {"training", "held_out"}
    assert all(found[f"a_{number}"] == found[f"b_{number}"] for number in range(12))


def test_a_renamed_image_keeps_its_side(studies: Path, open_store: OpenStore) -> None:
    for number in range(12):
        put(studies, f"old_{number}.nii.gz", number)
    store = open_store()
    before = sides(store)
    for number in range(12):
        (studies / f"old_{number}.nii.gz").rename(studies / f"new_{number}.nii.gz")
    store.refresh()
    after = store.sides(store.list_images())
    assert {name: side.side for name, side in after.items()} == {
        name.replace("old", "new"): side for name, side in before.items()
    }
    assert all(side.duplicate_of == "" for side in after.values())


def test_a_removed_and_restored_image_keeps_its_side(studies: Path, open_store: OpenStore) -> None:
    for number in range(6):
        put(studies, f"ct_{number}.nii.gz", number)
    store = open_store()
    before = sides(store)
    for image_id in list(before):
        store.remove_image(image_id)
        store.restore_image(ImageId(image_id))
    assert sides(store) == before


def test_duplicates_found_late_go_to_the_side_of_the_one_that_was_seen_first(
    studies: Path, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labelserver.datastore.sides._COMPARED_BYTES", 0)
    for number in range(16):
        put(studies, f"a_{number:02}.nii.gz", number)
    first = sides(open_store())
    for number in range(16):
        put(studies, f"b_{number:02}.nii.gz", number)
    store = open_store()
    store.compare_contents(store.list_images())
    found = store.sides(store.list_images())
    assert {name: side.side for name, side in found.items() if name in first} == first
    for number in range(16):
        assert found[f"b_{number:02}"].side == found[f"a_{number:02}"].side
        assert found[f"b_{number:02}"].duplicate_of == f"a_{number:02}"
    for part in (studies / ".labelserver").glob("index.sqlite*"):
        part.unlink()
    assert sides(open_store()) == {name: side.side for name, side in found.items()}


def test_a_replaced_image_is_compared_anew(studies: Path, open_store: OpenStore) -> None:
    put(studies, "a.nii.gz", 0)
    put(studies, "b.nii.gz", 0)
    store = open_store()
    assert store.sides(["b"])["b"].duplicate_of == "a"
    put(studies, "b.nii.gz", 1000)
    store.refresh()
    store.upkeep.compare_some(10)
    assert store.sides(["b"])["b"].duplicate_of == ""


def test_the_hash_of_voxels_does_not_depend_on_type_or_compression(tmp_path: Path) -> None:
    hashes = {
        content_hash(put(tmp_path, name, 3, dtype))
        for name, dtype in (("a.nii.gz", np.int16), ("b.nii", np.float32), ("c.nrrd", np.int32))
    }
    assert len(hashes) == 1
    assert content_hash(put(tmp_path, "d.nii.gz", 4)) not in hashes


def test_nothing_is_left_of_the_side_of_an_erased_image(studies: Path, open_store: OpenStore) -> None:
    for number in range(3):
        put(studies, f"ct_{number}.nii.gz", number)
    store = open_store()
    store.upkeep.erase(store.upkeep.plan_erasure("ct_1"), "ada")
    assert "ct_1" not in (studies / ".labelserver" / "sides.jsonl").read_text()
    assert store.sides(["ct_1"]) == {}
    assert set(sides(store)) == {"ct_0", "ct_2"}


def test_a_folder_that_comes_with_two_labels_has_one_on_each_side(studies: Path, open_store: OpenStore) -> None:
    for number in range(20):
        put(studies, f"ct_{number:02}.nii.gz", number)
    labelled = ["ct_03", "ct_11"]
    for name in labelled:
        put_label(studies / "labels" / "final" / f"{name}.nii.gz")
    found = sides(open_store())
    assert sorted(found[name] for name in labelled) == ["held_out", "training"]


def test_a_label_of_a_held_out_image_is_due_after_three_others(studies: Path, open_store: OpenStore) -> None:
    for number in range(20):
        put(studies, f"ct_{number:02}.nii.gz", number)
    store = open_store()
    found = sides(store)
    to_learn_from = [name for name, side in found.items() if side == "training"]
    held_out = [name for name, side in found.items() if side == "held_out"]
    label = put_label(studies.parent / "l.nii.gz")
    due = []
    for name in [*to_learn_from[:3], held_out[0]]:
        due.append(store.side_due())
        copy = shutil.copy(label, studies.parent / "copy.nii.gz")
        store.accept_label(ImageId(name), Path(copy), ".nii.gz", FINAL, Provenance(), {})
    assert due == [None, None, None, Side.HELD_OUT]
    assert store.side_due() is None
