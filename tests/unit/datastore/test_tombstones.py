"""A removed image is had back as it was: file, info, labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from labelserver.datastore.local import LocalDatastore
from labelserver.domain.errors import Conflict, ImageNotFound
from labelserver.domain.ids import FINAL, ImageId
from tests.support.study_folder import put_image, put_label, put_series

OpenStore = Callable[..., LocalDatastore]
A = ImageId("a")


@pytest.fixture
def store(studies: Path, open_store: OpenStore, tmp_path: Path) -> LocalDatastore:
    put_image(studies, "a.nii.gz")
    put_image(studies, "b/c.nii.gz")
    store = open_store()
    store.save_label("a", str(put_label(tmp_path / "l.nii.gz", 1)), "final", {"user": "Ada"})
    store.save_label("a", str(put_label(tmp_path / "l.nii.gz", 2)), "original", {})
    store.update_image_info("a", {"dice": 0.5})
    return store


def test_restore_undoes_remove(store: LocalDatastore, studies: Path) -> None:
    image = (studies / "a.nii.gz").read_bytes()
    label = Path(store.get_label_uri("a", "final")).read_bytes()
    before = store.json()
    store.remove_image("a")
    assert store.list_images() == ["b/c"]
    store.refresh()
    store.restore_image(A)
    assert store.json() == before
    assert (studies / "a.nii.gz").read_bytes() == image
    assert Path(store.get_label_uri("a", "final")).read_bytes() == label
    assert store.current_revision(A, FINAL).number == 1
    assert list(store.ordered_by_score("dice", unlabeled_only=False)) == [("a", 0.5)]
    store.refresh()
    assert store.json() == before
    assert store.problems() == []


def test_a_label_that_was_withdrawn_before_stays_withdrawn(store: LocalDatastore) -> None:
    store.remove_label("a", "original")
    store.remove_image("a")
    store.restore_image(A)
    assert list(store.get_labels_by_image_id("a")) == ["final"]


def test_a_series_comes_back_slice_by_slice(studies: Path, open_store: OpenStore) -> None:
    put_series(studies / "ct", "1.2.3")
    before = {p.name: p.read_bytes() for p in (studies / "ct").iterdir()}
    store = open_store()
    store.remove_image("ct")
    store.restore_image(ImageId("ct"))
    assert {p.name: p.read_bytes() for p in (studies / "ct").iterdir()} == before
    assert store.list_images() == ["ct"]


def test_a_link_comes_back_as_a_link(store: LocalDatastore, studies: Path, tmp_path: Path) -> None:
    elsewhere = put_image(tmp_path, "elsewhere.nii.gz")
    (studies / "linked.nii.gz").symlink_to(elsewhere)
    store.refresh()
    store.remove_image("linked")
    assert elsewhere.is_file()
    store.restore_image(ImageId("linked"))
    assert (studies / "linked.nii.gz").readlink() == elsewhere


def test_restore_says_why_it_cannot(store: LocalDatastore, studies: Path) -> None:
    with pytest.raises(ImageNotFound, match="no image"):
        store.restore_image(ImageId("nobody"))
    with pytest.raises(Conflict, match="is there"):
        store.restore_image(A)
    store.remove_image("a")
    (studies / "a.nii.gz").write_bytes(b"somebody else's")
    with pytest.raises(Conflict, match="has the place"):
        store.restore_image(A)
    assert (studies / "a.nii.gz").read_bytes() == b"somebody else's"


def test_restore_survives_the_loss_of_the_index(store: LocalDatastore, open_store: OpenStore) -> None:
    store.remove_image("a")
    store.upkeep.backup()
    store.close()
    store.layout.index_file.unlink()
    again = open_store()
    assert again.list_images() == ["b/c"]
    again.restore_image(A)
    assert again.list_images() == ["a", "b/c"]
    assert list(again.get_labels_by_image_id("a")) == ["final", "original"]


def test_what_a_read_only_store_hides_is_shown_again(studies: Path, tmp_path: Path, open_store: OpenStore) -> None:
    put_image(studies, "a.nii.gz")
    store = open_store(read_only=True, state_dir=tmp_path / "state" / ".labelserver")
    store.remove_image("a")
    store.refresh()
    assert store.list_images() == []
    assert (studies / "a.nii.gz").is_file()
    store.restore_image(A)
    assert store.list_images() == ["a"]


def test_what_lies_in_a_linked_folder_is_hidden_and_never_moved(
    studies: Path, open_store: OpenStore, tmp_path: Path
) -> None:
    archive = tmp_path / "archive"
    put_series(archive / "ct", "1.2.3")
    put_image(archive, "deep/one.nii.gz")
    (studies / "far").symlink_to(archive, target_is_directory=True)
    before = {p: p.read_bytes() for p in archive.rglob("*") if p.is_file()}
    store = open_store()
    assert store.list_images() == ["far/ct", "far/deep/one"]
    for image_id in ("far/ct", "far/deep/one"):
        store.remove_image(image_id)
    assert {p: p.read_bytes() for p in archive.rglob("*") if p.is_file()} == before
    store.refresh()
    assert store.list_images() == [], "the next look does not take them for new ones"
    for image_id in ("far/ct", "far/deep/one"):
        store.restore_image(ImageId(image_id))
    store.refresh()
    assert store.list_images() == ["far/ct", "far/deep/one"]
    assert {p: p.read_bytes() for p in archive.rglob("*") if p.is_file()} == before
