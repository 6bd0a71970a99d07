"""Upgrades keep a copy of what was; read-only studies and an index on another disk work as the design says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from labelserver.datastore import layout as layout_room
from labelserver.datastore.layout import Layout
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.ids import FINAL, ImageId
from tests.support.study_folder import put_image, put_label

OpenStore = Callable[..., LocalDatastore]
A = ImageId("a")


@pytest.fixture
def labeled(studies: Path, open_store: OpenStore, tmp_path: Path) -> LocalDatastore:
    put_image(studies, "a.nii.gz")
    store = open_store()
    store.save_label("a", str(put_label(tmp_path / "l.nii.gz")), "final", {})
    return store


def test_an_older_state_folder_is_upgraded_step_by_step_after_a_copy_was_made(
    labeled: LocalDatastore, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    labeled.close()
    ran: list[str] = []

    def first(layout: Layout) -> None:
        ran.append("1 to 2")
        (layout.state / "made-by-upgrade").write_text("x")

    def second(layout: Layout) -> None:
        ran.append("2 to 3")
        if len(ran) == 2:
            raise OSError("the power went")

    monkeypatch.setattr(layout_room, "LAYOUT_VERSION", 3)
    monkeypatch.setattr(layout_room, "UPGRADES", {1: first, 2: second})
    with pytest.raises(OSError, match="power"):
        open_store()
    assert json.loads((labeled.layout.state / "format.json").read_text()) == {"layout": 2}
    store = open_store()
    assert ran == ["1 to 2", "2 to 3", "2 to 3"]
    assert json.loads((labeled.layout.state / "format.json").read_text()) == {"layout": 3}
    kept = labeled.layout.backups / "before-format-3"
    assert {"format.json", "audit.jsonl", "index.sqlite"} <= {p.name for p in kept.iterdir()}
    assert store.current_revision(A, FINAL).number == 1
    open_store()
    assert len(ran) == 3, "an upgrade runs once"


def test_an_index_from_before_the_audit_gets_entries_when_it_is_made_again(
    labeled: LocalDatastore, open_store: OpenStore
) -> None:
    with labeled._index.writing() as connection:
        connection.execute("DELETE FROM audit")
    labeled.close()
    labeled.layout.audit_file.unlink()
    labeled.layout.index_file.unlink()
    assert [e.act.action for e in open_store().audit_log(10)] == ["recovered"]


def test_read_only_studies_stay_untouched_and_labels_lie_elsewhere(
    studies: Path, tmp_path: Path, open_store: OpenStore
) -> None:
    put_image(studies, "a.nii.gz")
    put_label(studies / "labels/final/a.nii.gz", 1)
    before = {p: p.stat().st_mtime_ns for p in studies.rglob("*")}
    for path in (studies, studies / "labels", studies / "labels/final"):
        path.chmod(0o555)
    try:
        elsewhere = tmp_path / "mine"
        store = open_store(read_only=True, state_dir=elsewhere / ".labelserver")
        store.save_label("a", str(put_label(tmp_path / "l.nii.gz", 2)), "final", {})
        assert Path(store.get_label_uri("a", "final")) == elsewhere / "labels/final/a.nii.gz"
        assert [r.number for r in store.revisions(A, FINAL)] == [1, 2]
        store.upkeep.backup()
        assert store.upkeep.verify().findings == []
        assert {p: p.stat().st_mtime_ns for p in studies.rglob("*")} == before
    finally:
        for path in (studies, studies / "labels", studies / "labels/final"):
            path.chmod(0o755)


def test_the_index_may_lie_on_another_disk(studies: Path, tmp_path: Path, open_store: OpenStore) -> None:
    put_image(studies, "a.nii.gz")
    store = open_store(index_dir=tmp_path / "local-disk")
    store.save_label("a", str(put_label(tmp_path / "l.nii.gz")), "final", {})
    assert (tmp_path / "local-disk" / "index.sqlite").is_file()
    assert not (store.layout.state / "index.sqlite").exists()
    store.close()
    (tmp_path / "local-disk" / "index.sqlite").unlink()
    assert open_store(index_dir=tmp_path / "local-disk").current_revision(A, FINAL).number == 1


def test_a_backup_is_made_only_when_something_was_committed(labeled: LocalDatastore) -> None:
    assert labeled.upkeep.backup_if_changed() is not None
    assert labeled.upkeep.backup_if_changed() is None
    labeled.update_image_info("a", {"dice": 0.5})
    assert labeled.upkeep.backup_if_changed() is not None


def test_an_index_on_a_network_folder_is_told_of(
    studies: Path, open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout_room, "is_network_folder", lambda folder: folder.is_relative_to(studies))
    assert any("LABELSERVER_INDEX_DIR" in problem.reason for problem in open_store().problems())
    assert open_store(index_dir=tmp_path / "local-disk").problems() == []
