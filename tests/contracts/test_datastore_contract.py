"""What every datastore promises, asked of the local folder and of its stand-in alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from labelserver.contracts.datastore import Datastore, RevisionStore
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.annotation import COMPLETE, AnnotatedPart, Annotation, MaskFile, Slices
from labelserver.domain.errors import (
    Conflict,
    ImageNotFound,
    InvalidId,
    InvalidParams,
    LabelChanged,
    LabelNotFound,
    UnreadableFile,
)
from labelserver.domain.ids import FINAL, ImageId
from labelserver.domain.labels import ANY_LABEL, Numbering, Provenance, Revision
from labelserver.imaging.volumes import write_volume
from tests.fakes.memory_datastore import MemoryDatastore

SHAPE = (4, 5, 6)
AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])

MakeLabel = Callable[[int], str]


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Datastore]:
    folder = tmp_path / "studies"
    folder.mkdir()
    if request.param == "memory":
        yield MemoryDatastore(folder)
        return
    local = LocalDatastore(folder)
    yield local
    local.close()


@pytest.fixture
def image_file(tmp_path: Path) -> str:
    path = tmp_path / "upload.nii.gz"
    write_volume(path, np.zeros(SHAPE, np.int16), AFFINE, compress=True)
    return str(path)


@pytest.fixture
def make_label(tmp_path: Path) -> MakeLabel:
    def make(value: int, ext: str = ".nii.gz") -> str:
        path = tmp_path / f"label-{value}{ext}"
        write_volume(path, np.full(SHAPE, value, np.uint8), AFFINE, compress=True)
        return str(path)

    return make


def test_an_added_image_is_listed_with_its_info(store: Datastore, image_file: str) -> None:
    assert store.add_image("case 1", image_file, {"client_id": "me"}) == "case 1"
    assert store.list_images() == ["case 1"]
    assert Path(store.get_image_uri("case 1")).read_bytes() == Path(image_file).read_bytes()
    info = store.get_image_info("case 1")
    assert info["client_id"] == "me"
    assert info["name"] == "case 1.nii.gz"
    assert isinstance(info["ts"], int)


def test_an_image_without_an_id_is_named_by_its_file(store: Datastore, image_file: str) -> None:
    assert store.add_image(None, image_file, {}) == "upload"


def test_the_caller_may_delete_its_file_afterwards(store: Datastore, image_file: str, make_label: MakeLabel) -> None:
    store.add_image("a", image_file, {})
    Path(image_file).unlink()
    label = make_label(1)
    store.save_label("a", label, "final", {})
    Path(label).unlink()
    stream = store.get_label("a", "final")
    assert stream is not None
    assert len(stream.read()) > 0
    assert Path(store.get_image_uri("a")).is_file()


def test_unknown_ids_answer_empty_and_raise_where_a_result_cannot_be_given(
    store: Datastore, make_label: MakeLabel
) -> None:
    assert store.get_image_uri("nobody") == ""
    assert store.get_label_uri("nobody", "final") == ""
    assert store.get_image_info("nobody") == {}
    assert store.get_label_info("nobody", "final") == {}
    assert store.get_labels_by_image_id("nobody") == {}
    assert store.get_image("nobody") is None
    with pytest.raises(ImageNotFound):
        store.save_label("nobody", make_label(1), "final", {})
    with pytest.raises(ImageNotFound):
        store.update_image_info("nobody", {"a": 1})
    with pytest.raises(ImageNotFound):
        store.remove_image("nobody")
    with pytest.raises(LabelNotFound):
        store.update_label_info("nobody", "final", {"a": 1})


def test_only_final_labels_count_as_done(store: Datastore, image_file: str, make_label: MakeLabel) -> None:
    for name in ("a", "b"):
        store.add_image(name, image_file, {})
    store.save_label("a", make_label(1), "original", {})
    assert store.get_labeled_images() == []
    assert store.datalist() == []
    store.save_label("b", make_label(2), "final", {})
    assert store.get_labeled_images() == ["b"]
    assert store.get_unlabeled_images() == ["a"]
    assert store.get_labeled_images("original") == ["a"]
    assert store.get_unlabeled_images("original") == ["b"]
    assert store.datalist() == [{"image": store.get_image_uri("b"), "label": store.get_label_uri("b", "final")}]
    assert all(Path(path).is_absolute() for pair in store.datalist() for path in pair.values())
    assert store.status() == {"total": 2, "completed": 1, "label_tags": {"final": 1, "original": 1}}


def test_labeled_images_are_filtered_by_segment_names_where_known(
    store: Datastore, image_file: str, make_label: MakeLabel
) -> None:
    for name in ("a", "b", "c"):
        store.add_image(name, image_file, {})
    store.save_label("a", make_label(1), "final", {"label_info": [{"name": "liver", "idx": 1}]})
    store.save_label("b", make_label(1), "final", {"label_info": [{"name": "spleen", "idx": 1}]})
    store.save_label("c", make_label(1), "final", {})
    assert store.get_labeled_images(labels=["liver"]) == ["a", "c"]
    assert store.get_unlabeled_images(labels=["liver"]) == ["b"]


def test_saving_again_replaces_the_label_and_its_info(store: Datastore, image_file: str, make_label: MakeLabel) -> None:
    store.add_image("a", image_file, {})
    store.save_label("a", make_label(1), "final", {"round": 1, "old": True})
    store.save_label("a", make_label(2), "final", {"round": 2})
    info = store.get_label_info("a", "final")
    assert info["round"] == 2
    assert "old" not in info
    assert info["name"] == "a.nii.gz"
    assert Path(store.get_label_uri("a", "final")).read_bytes() == Path(make_label(2)).read_bytes()


def test_tags_keep_the_order_in_which_they_were_first_saved(
    store: Datastore, image_file: str, make_label: MakeLabel
) -> None:
    store.add_image("a", image_file, {})
    for tag in ("original", "final", "version_1", "original"):
        store.save_label("a", make_label(1), tag, {})
    assert list(store.get_labels_by_image_id("a")) == ["original", "final", "version_1"]
    assert list(store.json()["objects"]["a"]["labels"]) == ["original", "final", "version_1"]
    store.remove_label("a", "original")
    store.save_label("a", make_label(1), "original", {})
    assert list(store.get_labels_by_image_id("a")) == ["final", "version_1", "original"]
    assert store.get_label_by_image_id("a", "final") == "a"
    assert store.get_label_by_image_id("a", "none") == ""


def test_infos_are_merged_shallowly(store: Datastore, image_file: str, make_label: MakeLabel) -> None:
    store.add_image("a", image_file, {"x": {"old": 1}})
    store.update_image_info("a", {"x": {"new": 2}, "y": 3})
    info = store.get_image_info("a")
    assert (info["x"], info["y"]) == ({"new": 2}, 3)
    store.save_label("a", make_label(1), "final", {"u": 1})
    store.update_label_info("a", "final", {"segmentationMeta": {"status": "approved"}})
    label_info = store.get_label_info("a", "final")
    assert (label_info["u"], label_info["segmentationMeta"]) == (1, {"status": "approved"})


def test_a_removed_label_is_gone_and_removing_twice_is_no_error(
    store: Datastore, image_file: str, make_label: MakeLabel
) -> None:
    store.add_image("a", image_file, {})
    store.save_label("a", make_label(1), "final", {})
    path = Path(store.get_label_uri("a", "final"))
    store.remove_label("a", "final")
    store.remove_label("a", "final")
    assert not path.exists()
    assert store.get_label_uri("a", "final") == ""
    assert store.get_unlabeled_images() == ["a"]


def test_a_removed_image_takes_its_labels_along(store: Datastore, image_file: str, make_label: MakeLabel) -> None:
    store.add_image("a", image_file, {})
    store.save_label("a", make_label(1), "final", {})
    paths = [Path(store.get_image_uri("a")), Path(store.get_label_uri("a", "final"))]
    store.remove_image("a")
    assert not any(path.exists() for path in paths)
    assert store.list_images() == []
    assert store.status() == {"total": 0, "completed": 0, "label_tags": {}}


def test_uploading_again_keeps_labels_and_their_info(store: Datastore, image_file: str, make_label: MakeLabel) -> None:
    store.add_image("a", image_file, {"kept": 1})
    store.save_label("a", make_label(1), "final", {"u": 1})
    store.add_image("a", image_file, {"fresh": 2})
    assert store.get_label_info("a", "final")["u"] == 1
    info = store.get_image_info("a")
    assert (info["kept"], info["fresh"]) == (1, 2)


@pytest.mark.parametrize(
    "image_id", ["../x", "/etc/x", "a/../../x", "labels/final/x", ".labelserver/x", "a\\b", "a//b"]
)
def test_ids_that_leave_the_folder_are_refused(
    store: Datastore, image_file: str, make_label: MakeLabel, image_id: str
) -> None:
    with pytest.raises(InvalidId):
        store.add_image(image_id, image_file, {})
    with pytest.raises(InvalidId):
        store.save_label(image_id, make_label(1), "final", {})


@pytest.mark.parametrize("tag", ["../x", "a/b", ".hidden", "a\\b", "x" * 65])
def test_tags_that_leave_the_folder_are_refused(
    store: Datastore, image_file: str, make_label: MakeLabel, tag: str
) -> None:
    store.add_image("a", image_file, {})
    with pytest.raises(InvalidId):
        store.save_label("a", make_label(1), tag, {})
    with pytest.raises(InvalidId):
        store.remove_label("a", tag)


def test_the_whole_index_has_the_shape_old_clients_read(
    store: Datastore, image_file: str, make_label: MakeLabel
) -> None:
    store.set_name("abdomen")
    store.set_description("CT")
    store.add_image("a", image_file, {})
    store.save_label("a", make_label(1), "final", {"u": 1})
    document = store.json()
    assert (document["name"], document["description"]) == ("abdomen", "CT")
    assert (document["images_dir"], document["labels_dir"]) == (".", "labels")
    entry = document["objects"]["a"]
    assert entry["image"]["ext"] == ".nii.gz"
    assert entry["image"]["info"]["name"] == "a.nii.gz"
    assert entry["labels"]["final"]["ext"] == ".nii.gz"
    assert set(entry["labels"]["final"]["info"]) == {"u", "ts", "name"}


def test_a_removed_image_is_had_back_with_its_labels(store: Datastore, image_file: str, make_label: MakeLabel) -> None:
    assert isinstance(store, RevisionStore)
    store.add_image("a", image_file, {})
    store.save_label("a", make_label(1), "final", {"value": 1})
    before = store.json()
    with pytest.raises(Conflict):
        store.restore_image(ImageId("a"), "Ada")
    store.remove_image("a", "Ada")
    assert store.list_images() == []
    store.restore_image(ImageId("a"), "Ada")
    assert store.json() == before
    assert Path(store.get_label_uri("a", "final")).is_file()
    with pytest.raises(ImageNotFound):
        store.restore_image(ImageId("never-there"))


def test_every_accepted_label_stays_a_revision(store: Datastore, image_file: str, make_label: MakeLabel) -> None:
    assert isinstance(store, RevisionStore)
    store.add_image("a", image_file, {})
    for value in (1, 2, 3):
        store.save_label("a", make_label(value), "final", {"value": value})
    found = store.revisions(ImageId("a"), FINAL)
    assert [r.number for r in found] == [1, 2, 3]
    assert [r.parent for r in found] == [None, 1, 2]
    assert [r.info["value"] for r in found] == [1, 2, 3]
    assert store.current_revision(ImageId("a"), FINAL) == found[-1]
    store.remove_label("a", "final")
    assert len(store.revisions(ImageId("a"), FINAL)) == 3
    with pytest.raises(LabelNotFound):
        store.current_revision(ImageId("a"), FINAL)


def accept(store: Datastore, file: str, **options: object) -> Revision:
    assert isinstance(store, RevisionStore)
    info = options.pop("info", {})
    return store.accept_label(ImageId("a"), Path(file), ".nii.gz", FINAL, Provenance("Ada"), info, **options)  # type: ignore[arg-type]


def test_a_label_is_accepted_only_if_it_is_the_expected_one(
    store: Datastore, image_file: str, make_label: MakeLabel
) -> None:
    assert isinstance(store, RevisionStore)
    store.add_image("a", image_file, {})
    with pytest.raises(LabelChanged):
        accept(store, make_label(1), expected={ANY_LABEL})
    first = accept(store, make_label(1), expected=frozenset())
    with pytest.raises(LabelChanged) as told:
        accept(store, make_label(2), expected=frozenset())
    assert told.value.fields["number"] == 1
    second = accept(store, make_label(2), expected={first.sha256})
    with pytest.raises(LabelChanged):
        accept(store, make_label(1), expected={first.sha256})
    third = accept(store, make_label(1), expected={ANY_LABEL})
    assert [r.number for r in (first, second, third)] == [1, 2, 3]
    assert len(store.revisions(ImageId("a"), FINAL)) == 3
    store.remove_label("a", "final")
    with pytest.raises(LabelChanged):
        accept(store, make_label(1), expected={third.sha256})
    assert accept(store, make_label(1), expected=frozenset()).number == 4


def test_voxels_of_a_floating_point_type_are_refused_where_that_is_asked(
    store: Datastore, image_file: str, tmp_path: Path
) -> None:
    store.add_image("a", image_file, {})
    path = tmp_path / "float.nii.gz"
    write_volume(path, np.ones(SHAPE, np.float32), AFFINE, compress=True)
    with pytest.raises(UnreadableFile):
        accept(store, str(path), floats=False)
    assert accept(store, str(path)).number == 1


def test_a_label_without_names_is_taken_in_either_numbering(
    store: Datastore, image_file: str, make_label: MakeLabel
) -> None:
    store.add_image("a", image_file, {})
    for numbering in Numbering:
        revision = accept(store, make_label(1), numbering=numbering)
        assert store.get_label_info("a", "final")["ts"] == int(revision.created_ts)


def test_what_was_annotated_is_kept_with_the_revision(
    store: Datastore, image_file: str, make_label: MakeLabel, tmp_path: Path
) -> None:
    assert isinstance(store, RevisionStore)
    store.add_image("a", image_file, {})
    assert accept(store, make_label(1)).annotation == COMPLETE
    forged = {"annotated": Annotation(None, Slices(0, (0,))).to_json()}
    assert accept(store, make_label(1), info=forged).annotation == COMPLETE
    some = AnnotatedPart(("liver",), Slices(2, (0, 1)))
    assert accept(store, make_label(1), annotated=some).annotation == Annotation(("liver",), Slices(2, (0, 1)))
    mask = np.indices(SHAPE).sum(axis=0) % 2 == 0
    write_volume(tmp_path / "mask.nii.gz", mask.astype(np.uint8), AFFINE, compress=True)
    region = accept(store, make_label(1), annotated=AnnotatedPart(mask=tmp_path / "mask.nii.gz")).annotation.region
    assert isinstance(region, MaskFile)
    assert region.voxels == mask.sum()
    with pytest.raises(InvalidParams):
        accept(store, make_label(1), annotated=AnnotatedPart(None, Slices(2, (99,))))
    assert [r.annotation.is_complete for r in store.revisions(ImageId("a"), FINAL)] == [True, True, False, False]
