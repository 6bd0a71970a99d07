"""Which files are images, what they are called, and what happens when they come and go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from labelserver.datastore.local import LocalDatastore
from labelserver.domain.errors import InvalidSetting, UnreadableFile
from labelserver.domain.ids import ImageId
from labelserver.domain.labels import ImageKind
from labelserver.imaging.volumes import read_volume, write_volume
from tests.support.study_folder import AFFINE, noise_bytes, put_image, put_label, put_series

OpenStore = Callable[..., LocalDatastore]


def test_images_of_all_types_are_listed_with_their_folders(studies: Path, open_store: OpenStore) -> None:
    for name in ("a.nii.gz", "b.NII", "deep/er/c.nrrd", "d.mha"):
        put_image(studies, name)
    for name in ("p.png", "q.jpg", "r.tif"):
        put_image(studies, name, shape=(8, 9, 1))
    for name in (".hidden.nii.gz", ".folder/x.nii.gz", "labels/final/a.nii.gz"):
        put_image(studies, name)
    (studies / "notes.txt").write_text("no image")
    store = open_store()
    assert store.list_images() == ["a", "b", "d", "deep/er/c", "p", "q", "r"]
    assert store.image(ImageId("deep/er/c")).path == "deep/er/c.nrrd"
    assert store.image(ImageId("p")).kind is ImageKind.PICTURE
    assert store.get_image_info("deep/er/c")["name"] == "c.nrrd"
    assert store.get_image_uri("b") == str(studies / "b.NII")
    assert store.problems() == []


def test_a_missing_studies_folder_is_an_invalid_setting(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="does not exist"):
        LocalDatastore(tmp_path / "nowhere")


def test_patterns_choose_the_files(studies: Path, open_store: OpenStore) -> None:
    put_image(studies, "a.nii.gz")
    put_image(studies, "b.nrrd")
    assert open_store(extensions=("*.nii.gz", "*.nii")).list_images() == ["a"]


def test_names_that_differ_only_by_extension_get_two_ids_for_ever(studies: Path, open_store: OpenStore) -> None:
    put_image(studies, "a.nrrd")
    store = open_store()
    assert store.list_images() == ["a"]
    put_image(studies, "a.nii.gz")
    store.refresh()
    assert store.list_images() == ["a", "a.nii.gz"]
    assert store.get_image_uri("a").endswith("a.nrrd")
    (studies / "a.nrrd").unlink()
    store.refresh()
    assert store.list_images() == ["a.nii.gz"]
    put_image(studies, "a.nrrd")
    assert open_store().get_image_uri("a").endswith("a.nrrd")


@pytest.mark.parametrize(
    "name", ["Ünï çödé 肝臓", "with  spaces", "UPPER", "x" * 200, "a.b.c", "(1) [2] {3} #4 %20 'q'"]
)
def test_unusual_names_are_ids(name: str, studies: Path, open_store: OpenStore, tmp_path: Path) -> None:
    put_image(studies, f"{name}.nii.gz")
    put_image(studies, f"{name.lower()}_other.nii.gz")
    store = open_store()
    assert name in store.list_images()
    store.save_label(name, str(put_label(tmp_path / "l.nii.gz")), "final", {})
    assert Path(store.get_label_uri(name, "final")).is_file()
    store.close()
    assert open_store().get_labeled_images() == [name]


def test_names_that_differ_only_in_case_keep_their_own_labels(
    studies: Path, open_store: OpenStore, tmp_path: Path
) -> None:
    for name in ("case", "Case"):
        put_image(studies, f"{name}.nii.gz")
    store = open_store()
    store.save_label("case", str(put_label(tmp_path / "l.nii.gz", 1)), "final", {})
    store.save_label("Case", str(put_label(tmp_path / "m.nii.gz", 2)), "final", {})
    assert read_volume(Path(store.get_label_uri("case", "final"))).voxels.max() == 1
    assert read_volume(Path(store.get_label_uri("Case", "final"))).voxels.max() == 2


def test_a_label_name_that_would_be_too_long_for_the_disk_is_shortened(
    studies: Path, open_store: OpenStore, tmp_path: Path
) -> None:
    name = "y" * 248
    put_image(studies, f"{name}.nii.gz")
    store = open_store()
    store.save_label(name, str(put_label(tmp_path / "l.seg.nrrd")), "final", {})
    assert Path(store.get_label_uri(name, "final")).is_file()
    store.refresh()
    assert store.get_labeled_images() == [name]


def test_a_file_called_labels_is_an_image_with_its_extension_as_id(studies: Path, open_store: OpenStore) -> None:
    put_image(studies, "labels.nii.gz")
    assert open_store().list_images() == ["labels.nii.gz"]


def test_links_are_followed_but_never_in_circles(studies: Path, open_store: OpenStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    put_image(outside, "x.nii.gz")
    (studies / "linked").symlink_to(outside)
    (studies / "one.nii.gz").symlink_to(outside / "x.nii.gz")
    (studies / "sub").mkdir()
    (studies / "sub" / "circle").symlink_to(studies)
    (studies / "dangling.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    store = open_store()
    assert store.list_images() == ["linked/x", "one"]
    reasons = {p.path: p.reason for p in store.problems()}
    assert "back into a folder above" in reasons["sub/circle"]
    assert "dangling.nii.gz" in reasons


def test_a_vanished_image_keeps_id_info_and_label_until_it_returns(
    studies: Path, open_store: OpenStore, tmp_path: Path
) -> None:
    file = put_image(studies, "a.nii.gz")
    store = open_store()
    store.update_image_info("a", {"dice": 0.5})
    store.save_label("a", str(put_label(tmp_path / "l.nii.gz")), "final", {"u": 1})
    kept = file.rename(tmp_path / "a.nii.gz")
    store.refresh()
    assert store.list_images() == []
    assert store.get_image_uri("a") == ""
    assert store.status() == {"total": 0, "completed": 0, "label_tags": {}}
    assert store.best_scored("dice") is None
    kept.rename(file)
    store.refresh()
    assert store.get_labeled_images() == ["a"]
    assert store.get_image_info("a")["dice"] == 0.5
    assert store.get_label_info("a", "final")["u"] == 1


def test_torn_and_alien_files_are_reported_and_stop_nothing(studies: Path, open_store: OpenStore) -> None:
    put_image(studies, "good.nii.gz")
    (studies / "empty.nii.gz").write_bytes(b"")
    (studies / "alien.nrrd").write_bytes(noise_bytes(500))
    whole = (studies / "good.nii.gz").read_bytes()
    (studies / "torn.nii.gz").write_bytes(whole[:40])
    store = open_store()
    assert store.list_images() == ["good"]
    assert [p.path for p in store.problems()] == ["alien.nrrd", "empty.nii.gz", "torn.nii.gz"]
    assert all(p.reason.endswith(".") for p in store.problems())
    (studies / "torn.nii.gz").write_bytes(whole)
    (studies / "alien.nrrd").unlink()
    store.refresh()
    assert store.list_images() == ["good", "torn"]
    assert [p.path for p in store.problems()] == ["empty.nii.gz"]


def test_an_image_that_became_unreadable_is_no_longer_given_out(studies: Path, open_store: OpenStore) -> None:
    file = put_image(studies, "a.nii.gz")
    store = open_store()
    file.write_bytes(b"torn")
    store.refresh()
    assert store.list_images() == []
    assert [p.path for p in store.problems()] == ["a.nii.gz"]


def test_many_new_files_are_looked_at_by_their_first_bytes(
    studies: Path, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labelserver.datastore.image_scan._HEADERS_READ", 2)
    for name in ("a.nii.gz", "b.nii.gz", "c.nii"):
        put_image(studies, name)
    (studies / "d.nii.gz").write_bytes(b"no gzip at all")
    store = open_store()
    assert store.list_images() == ["a", "b", "c"]
    assert [p.path for p in store.problems()] == ["d.nii.gz"]


def test_one_series_is_named_by_its_folder_and_several_by_their_uid(studies: Path, open_store: OpenStore) -> None:
    put_series(studies / "one", "1.2.3", suffix="")
    put_series(studies / "two", "1.2.4")
    put_series(studies / "two", "1.2.5", count=3)
    put_series(studies, "1.2.6")
    store = open_store()
    assert store.list_images() == ["1.2.6", "one", "two/1.2.4", "two/1.2.5"]
    record = store.image(ImageId("one"))
    assert (record.kind, record.ext, record.path) == (ImageKind.DICOM_SERIES, ".nii.gz", "one")
    assert store.get_image_info("one")["name"] == "one.nii.gz"
    put_series(studies / "one", "1.2.9", count=2)
    store.refresh()
    assert store.list_images() == ["1.2.6", "one", "one/1.2.9", "two/1.2.4", "two/1.2.5"]


def test_a_series_is_handed_out_converted_and_converted_once(studies: Path, open_store: OpenStore) -> None:
    put_series(studies / "ct", "1.2.3")
    store = open_store()
    first = Path(store.get_image_uri("ct"))
    assert first.name.endswith(".nii.gz")
    assert read_volume(first).grid.shape == (5, 3, 4)
    before = first.stat().st_mtime_ns
    assert open_store().get_image_uri("ct") == str(first)
    assert first.stat().st_mtime_ns == before
    put_series(studies / "ct", "1.2.3", count=6)
    store.refresh()
    second = Path(store.get_image_uri("ct"))
    assert read_volume(second).grid.shape == (5, 3, 6)
    assert not first.exists()
    assert not list(studies.glob("*.nii.gz"))


def test_a_series_that_cannot_be_placed_is_reported_and_no_image(studies: Path, open_store: OpenStore) -> None:
    put_series(studies / "scout", "1.2.3", ImagePositionPatient=None)
    store = open_store()
    assert store.list_images() == []
    assert [p.path for p in store.problems()] == ["scout"]
    assert "no position" in store.problems()[0].reason


def test_an_unchanged_dicom_folder_is_not_read_again(
    studies: Path, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_series(studies / "ct", "1.2.3")
    open_store()
    monkeypatch.setattr("labelserver.datastore.dicom_folders.find_series", None)
    assert open_store().list_images() == ["ct"]


def test_a_series_whose_pixels_cannot_be_decoded_is_refused_when_asked_for(
    studies: Path, open_store: OpenStore
) -> None:
    put_series(studies / "ct", "1.2.3")
    victim = next((studies / "ct").iterdir())
    victim.write_bytes(victim.read_bytes()[:-10])
    store = open_store()
    with pytest.raises(UnreadableFile):
        store.get_image_uri("ct")


def test_real_dicom_series_becomes_one_image(real_data: Path, tmp_path: Path) -> None:
    store = LocalDatastore(real_data / "ct-dicom", read_only=True, state_dir=tmp_path / ".labelserver")
    assert store.list_images() == ["labels.nii.gz", "series"]
    volume = read_volume(Path(store.get_image_uri("series")))
    assert volume.grid.shape == (512, 512, 20)
    assert store.accept_label is not None
    store.save_label("series", str(real_data / "ct-dicom" / "labels.nii.gz"), "final", {})
    stored = read_volume(Path(store.get_label_uri("series", "final")))
    assert stored.grid.same_place(volume.grid)
    given = read_volume(real_data / "ct-dicom" / "labels.nii.gz")
    assert np.array_equal(stored.voxels, given.voxels[:, ::-1])
    store.close()


def test_images_may_lie_in_a_folder_of_their_own(studies: Path, open_store: OpenStore) -> None:
    put_image(studies, "imagesTr/a.nii.gz")
    put_image(studies, "other/b.nii.gz")
    store = open_store(images_dir="imagesTr")
    assert store.list_images() == ["a"]
    assert store.image(ImageId("a")).path == "imagesTr/a.nii.gz"
    assert store.json()["images_dir"] == "imagesTr"


def test_only_the_changed_paths_are_looked_at(
    studies: Path, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_image(studies, "a.nii.gz")
    store = open_store()
    monkeypatch.setattr("labelserver.datastore.image_scan.ImageScan.whole", None)
    new = put_image(studies, "b.nii.gz")
    unseen = put_image(studies, "c.nii.gz")
    (studies / "a.nii.gz").unlink()
    store.refresh_paths([new, studies / "a.nii.gz", studies / ".labelserver" / "index.sqlite"])
    assert store.list_images() == ["b"]
    put_series(studies / "ct", "1.2.3")
    put_image(studies, "folder/deep/d.nii.gz")
    store.refresh_paths([studies / "ct" / "1.2.3-1.dcm", studies / "folder"])
    assert store.list_images() == ["b", "ct", "folder/deep/d"]
    for path in sorted((studies / "ct").iterdir()):
        path.unlink()
    (studies / "folder").rename(studies / "renamed")
    store.refresh_paths([studies / "ct" / "1.2.3-1.dcm", studies / "folder", studies / "renamed", unseen])
    assert store.list_images() == ["b", "c", "renamed/deep/d"]


def test_uploading_over_another_images_file_is_refused(studies: Path, open_store: OpenStore, tmp_path: Path) -> None:
    put_image(studies, "a.nrrd")
    put_image(studies, "a.nii.gz")
    store = open_store()
    assert store.list_images() == ["a", "a.nrrd"]
    write_volume(tmp_path / "u.nrrd", np.ones((2, 2, 2), np.int16), AFFINE, compress=True)
    before = (studies / "a.nrrd").read_bytes()
    with pytest.raises(Exception, match="belongs to the image"):
        store.add_image("a", str(tmp_path / "u.nrrd"), {})
    assert (studies / "a.nrrd").read_bytes() == before
