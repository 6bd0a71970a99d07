"""Deleting or damaging the index loses no label; other damaged files of ours stop nothing."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from labelserver.datastore.index_schema import VERSION
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.errors import StoredDataInvalid
from labelserver.domain.ids import FINAL, ImageId
from labelserver.domain.labels import Provenance
from labelserver.imaging.volumes import read_volume
from tests.support.study_folder import noise_bytes, put_image, put_label

OpenStore = Callable[..., LocalDatastore]
A = ImageId("a")


def delete(file: Path) -> None:
    for part in file.parent.glob("index.sqlite*"):
        part.unlink()


def delete_alone(file: Path) -> None:
    file.unlink()


def empty(file: Path) -> None:
    file.write_bytes(b"")


def noise(file: Path) -> None:
    file.write_bytes(noise_bytes(20_000))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:5000])


def scribble(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[4096:12000] = noise_bytes(7904)
    file.write_bytes(bytes(data))


DAMAGES = [delete, delete_alone, empty, noise, cut, scribble]


@pytest.fixture
def labeled(studies: Path, open_store: OpenStore, tmp_path: Path) -> LocalDatastore:
    """Two labels (one saved twice, one removed again) on images whose ids depend on who came first."""
    put_image(studies, "a.nrrd")
    store = open_store()
    put_image(studies, "a.nii.gz")
    put_image(studies, "b/c.nii.gz")
    store.refresh()
    assert store.list_images() == ["a", "a.nii.gz", "b/c"]
    store.accept_label(A, put_label(tmp_path / "l.nii.gz", 1), ".nii.gz", FINAL, Provenance("Ada"), {"u": 1})
    store.accept_label(A, put_label(tmp_path / "l.nii.gz", 2), ".nii.gz", FINAL, Provenance("Bob"), {"u": 2})
    store.save_label("b/c", str(put_label(tmp_path / "l.nii.gz", 3)), "original", {})
    store.save_label("b/c", str(put_label(tmp_path / "l.nii.gz", 4)), "final", {})
    store.remove_label("b/c", "final")
    return store


def assert_all_labels_there(store: LocalDatastore) -> None:
    assert store.list_images() == ["a", "a.nii.gz", "b/c"]
    assert store.get_image_uri("a").endswith("a.nrrd")
    assert store.get_labels_by_image_id("a") == {"final": "a"}
    assert store.get_labels_by_image_id("b/c") == {"original": "b/c"}
    assert read_volume(Path(store.get_label_uri("a", "final"))).voxels.max() == 2
    found = store.revisions(A, FINAL)
    assert [(r.number, r.provenance.person, r.info) for r in found] == [(1, "Ada", {"u": 1}), (2, "Bob", {"u": 2})]
    assert store.get_label_info("a", "final")["u"] == 2
    assert len(store.revisions(ImageId("b/c"), FINAL)) == 1
    assert store.status() == {"total": 3, "completed": 1, "label_tags": {"final": 1, "original": 1}}


@pytest.mark.parametrize("damage", DAMAGES)
def test_labels_and_ids_are_rebuilt_from_revisions(
    damage: Callable[[Path], None], labeled: LocalDatastore, open_store: OpenStore
) -> None:
    labeled.close()
    damage(labeled.layout.index_file)
    assert_all_labels_there(open_store())


@pytest.mark.parametrize("damage", [delete, delete_alone])
def test_a_running_store_survives_the_loss_of_its_index(
    damage: Callable[[Path], None], labeled: LocalDatastore, tmp_path: Path
) -> None:
    damage(labeled.layout.index_file)
    labeled.refresh()
    assert_all_labels_there(labeled)
    labeled.save_label("a", str(put_label(tmp_path / "l.nii.gz", 5)), "final", {})
    assert labeled.current_revision(A, FINAL).number == 3


def test_infos_come_back_from_the_newest_backup(labeled: LocalDatastore, open_store: OpenStore) -> None:
    labeled.update_image_info("a", {"dice": 0.25})
    labeled.update_label_info("a", "final", {"segmentationMeta": {"status": "approved"}})
    labeled.set_name("abdomen")
    labeled.upkeep.backup()
    labeled.close()
    delete(labeled.layout.index_file)
    store = open_store()
    assert_all_labels_there(store)
    assert store.get_image_info("a")["dice"] == 0.25
    assert store.get_label_info("a", "final")["segmentationMeta"] == {"status": "approved"}
    assert store.name() == "abdomen"
    assert list(store.ordered_by_score("dice", unlabeled_only=False)) == [("a", 0.25)]


def test_a_damaged_backup_is_passed_over(labeled: LocalDatastore, open_store: OpenStore) -> None:
    labeled.update_image_info("a", {"dice": 0.25})
    labeled.upkeep.backup()
    newest = labeled.upkeep.backup()
    newest.write_bytes(b"noise" * 1000)
    labeled.close()
    delete(labeled.layout.index_file)
    store = open_store()
    assert_all_labels_there(store)
    assert store.get_image_info("a")["dice"] == 0.25
    assert any("backup" in p.reason for p in store.problems())


def test_only_the_newest_three_backups_are_kept(labeled: LocalDatastore) -> None:
    paths = [labeled.upkeep.backup() for _ in range(5)]
    assert sorted(labeled.layout.backups.iterdir()) == sorted(paths[2:])


@pytest.mark.parametrize("content", [b"", b"{", noise_bytes(300), b"[]", b"{}"])
def test_a_damaged_revision_is_reported_and_the_others_are_used(
    content: bytes, labeled: LocalDatastore, open_store: OpenStore
) -> None:
    labeled.close()
    labeled.revision_file(A, FINAL, 1).with_name("1.json").write_bytes(content)
    labeled.close()
    delete(labeled.layout.index_file)
    store = open_store()
    assert [r.number for r in store.revisions(A, FINAL)] == [2]
    assert read_volume(Path(store.get_label_uri("a", "final"))).voxels.max() == 2
    assert [p.path.rpartition("/")[2] for p in store.problems()] == ["1.json"]


def test_a_cut_newest_revision_gives_way_to_the_one_before(labeled: LocalDatastore, open_store: OpenStore) -> None:
    victim = labeled.revision_file(A, FINAL, 2)
    victim.write_bytes(victim.read_bytes()[:20])
    labeled.close()
    (labeled.layout.studies / "labels/final/a.nii.gz").unlink()
    delete(labeled.layout.index_file)
    store = open_store()
    assert read_volume(Path(store.get_label_uri("a", "final"))).voxels.max() == 1
    assert len(store.problems()) == 1


@pytest.mark.parametrize("content", [b"", b"{", noise_bytes(50)])
def test_a_damaged_format_file_is_replaced(content: bytes, labeled: LocalDatastore, open_store: OpenStore) -> None:
    labeled.close()
    file = labeled.layout.state / "format.json"
    file.write_bytes(content)
    assert_all_labels_there(open_store())
    assert json.loads(file.read_text()) == {"layout": 1}


def test_a_folder_of_a_newer_version_is_left_alone(labeled: LocalDatastore, open_store: OpenStore) -> None:
    labeled.close()
    (labeled.layout.state / "format.json").write_text('{"layout": 99}')
    with pytest.raises(StoredDataInvalid, match="newer version"):
        open_store()


def test_an_index_of_a_newer_version_is_left_alone(labeled: LocalDatastore, open_store: OpenStore) -> None:
    labeled.close()
    connection = sqlite3.connect(labeled.layout.index_file)
    connection.execute(f"PRAGMA user_version={VERSION + 1}")
    connection.close()
    with pytest.raises(StoredDataInvalid, match="newer version"):
        open_store()


def test_an_older_index_is_upgraded_after_a_copy_was_made(
    labeled: LocalDatastore, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    labeled.close()
    monkeypatch.setattr("labelserver.datastore.index_schema.VERSION", VERSION + 1)
    monkeypatch.setattr(
        "labelserver.datastore.index_schema.UPGRADES", {VERSION: "ALTER TABLE leases ADD COLUMN note TEXT"}
    )
    store = open_store()
    assert_all_labels_there(store)
    with store._index.reading() as connection:
        assert connection.execute("SELECT note FROM leases").fetchall() == []
    assert (labeled.layout.backups / f"before-layout-{VERSION + 1}.sqlite").is_file()


def test_tables_of_later_guarantees_are_laid_out(labeled: LocalDatastore) -> None:
    with labeled._index.reading() as connection:
        names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        modes = [connection.execute(f"PRAGMA {p}").fetchone()[0] for p in ("journal_mode", "synchronous")]
    assert {"scores", "leases", "reviews", "time_log", "audit"} <= names
    assert modes == ["wal", 2]
