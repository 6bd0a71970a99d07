"""What people said about labels and images outlives the index, an upgrade, and an erased patient is forgotten."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from labelserver.datastore import index_schema, work_schema
from labelserver.datastore.local import LocalDatastore
from labelserver.datastore.queue import Asking
from labelserver.domain.errors import Conflict
from labelserver.domain.ids import FINAL, ImageId
from labelserver.domain.labels import Provenance
from labelserver.domain.work import Lease, Offer, Stage, Verdict, Workflow
from tests.support.study_folder import put_image, put_label

IDS = [f"i{number}" for number in range(6)]


def opened(studies: Path) -> LocalDatastore:
    return LocalDatastore(studies)


def forget_index(store: LocalDatastore) -> None:
    store.close()
    for part in store.layout.index_file.parent.glob("index.sqlite*"):
        part.unlink()


def lease(store: LocalDatastore, person: str, image: str) -> Lease:
    given = store.work.take(Asking(person), lambda view: Offer(ImageId(image)))
    assert isinstance(given, Lease)
    return given


@pytest.fixture
def store(tmp_path: Path) -> LocalDatastore:
    """i0 approved, i1 returned, i2 read by one of two, i3 flagged, i4 skipped and leased, i5 untouched."""
    studies = tmp_path / "studies"
    studies.mkdir()
    for image in IDS:
        put_image(studies, f"{image}.nii.gz")
    label = put_label(tmp_path / "label.nii.gz")
    made = opened(studies)
    for image in ("i0", "i1"):
        made.accept_label(ImageId(image), label, ".nii.gz", FINAL, Provenance("anna"), {})
    made.work.reviews.review(ImageId("i0"), FINAL, Verdict.APPROVED, "good", "rita")
    made.work.reviews.review(ImageId("i1"), FINAL, Verdict.RETURNED, "the tip", "rita")
    made.work.workflows.replace(Workflow(overlap_share=1, overlap_readers=2), based_on=None, person="anna")
    lease(made, "bea", "i2")
    made.accept_label(ImageId("i2"), label, ".nii.gz", FINAL, Provenance("bea"), {})
    made.work.reviews.flag(ImageId("i3"), "bea", "wrong patient")
    made.work.queue.skip(lease(made, "carl", "i4").lease_id, "carl", "too dark")
    lease(made, "dora", "i4")
    return made


def stages(store: LocalDatastore) -> dict[str, str]:
    return {image: work.stage.value for image, work in store.work.works(IDS).items()}


EXPECTED = {
    "i0": "approved",
    "i1": "returned",
    "i2": "draft",
    "i3": "flagged",
    "i4": "draft",
    "i5": "unlabeled",
}


def test_all_stages_are_told(store: LocalDatastore) -> None:
    assert stages(store) == EXPECTED
    assert store.work.rules.overlap_readers == 2
    store.close()


def test_a_lost_index_with_a_backup_costs_leases_alone(store: LocalDatastore, tmp_path: Path) -> None:
    store.upkeep.backup()
    forget_index(store)
    again = opened(tmp_path / "studies")
    assert stages(again) == {**EXPECTED, "i4": "unlabeled"}
    assert again.work.queue.leases() == []
    assert again.work.works(["i2"])["i2"].readers == 2
    assert again.work.works(["i3"])["i3"].flag.reason == "wrong patient"  # type: ignore[union-attr]
    assert not again.work.queue.offered("carl").includes(sqlite3.connect(again.layout.index_file), "i4")
    again.close()


def test_reviews_and_readings_come_back_without_a_backup(store: LocalDatastore, tmp_path: Path) -> None:
    assert store.layout.backups.exists() is False or not list(store.layout.backups.glob("index-*"))
    forget_index(store)
    again = opened(tmp_path / "studies")
    assert stages(again) == {**EXPECTED, "i3": "unlabeled", "i4": "unlabeled"}
    (review,) = again.work.reviews.of_label(ImageId("i1"), FINAL)
    assert (review.person, review.verdict, review.comment) == ("rita", Verdict.RETURNED, "the tip")
    assert again.work.works(["i2"])["i2"].readers == 2
    assert again.work.rules.overlap_readers == 2
    assert [Path(case["image"]).name for case in again.datalist()] == ["i0.nii.gz"]
    again.close()


def test_a_backup_and_the_files_do_not_double_a_review(store: LocalDatastore, tmp_path: Path) -> None:
    store.upkeep.backup()
    forget_index(store)
    again = opened(tmp_path / "studies")
    assert len(again.work.reviews.of_label(ImageId("i0"), FINAL)) == 1
    again.close()


def test_an_index_of_the_layout_before_is_upgraded_with_a_backup(store: LocalDatastore, tmp_path: Path) -> None:
    """The tables of layout 4 are made again from this one's, with the reviews that they could hold."""
    store.close()
    file = store.layout.index_file
    with sqlite3.connect(file) as index:
        names = [row[0] for row in index.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]
        ours = [name for name in names if f"CREATE TRIGGER {name} " in work_schema.WORK]
        assert len(ours) >= 10
        for name in ours:
            index.execute(f"DROP TRIGGER {name}")
        for name in ("images_open", "images_by_stage", "scores_open", "reviews_returned"):
            index.execute(f"DROP INDEX {name}")
        for table, column in (("images", "readers"), ("images", "stage"), ("images", "open"), ("scores", "open")):
            index.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        index.executescript(
            "DROP TABLE flags; DROP TABLE skips; DROP TABLE time_log; DROP TABLE leases;"
            "CREATE TABLE leases (image_id TEXT PRIMARY KEY, token TEXT NOT NULL UNIQUE);"
            "CREATE TABLE time_log (number INTEGER PRIMARY KEY, image_id TEXT NOT NULL); PRAGMA user_version = 4"
        )
    index.close()
    again = opened(tmp_path / "studies")
    known = {"i0": "approved", "i1": "returned", "i2": "submitted"}
    assert stages(again) == {**known, **dict.fromkeys(IDS[3:], "unlabeled")}
    assert lease(again, "eva", "i3").image_id == "i3"
    assert (again.layout.backups / f"before-layout-{index_schema.VERSION}.sqlite").is_file()
    again.close()


def test_a_backup_of_the_layout_before_still_serves(store: LocalDatastore, tmp_path: Path) -> None:
    newest = store.upkeep.backup()
    with sqlite3.connect(newest) as backup:
        backup.executescript(
            "DROP TABLE flags; DROP TABLE skips; DROP TABLE time_log;"
            "CREATE TABLE time_log (number INTEGER PRIMARY KEY, image_id TEXT NOT NULL);"
            "INSERT INTO time_log VALUES (1, 'x')"
        )
    backup.close()
    forget_index(store)
    again = opened(tmp_path / "studies")
    assert again.work.works(["i0"])["i0"].stage is Stage.APPROVED
    assert len([e for e in again.audit_log(50) if e.act.action == "review"]) == 2, "the audit chain came from it"
    again.close()


def test_erasing_forgets_reviews_flags_and_times(store: LocalDatastore, tmp_path: Path) -> None:
    for image in ("i1", "i3"):
        store.upkeep.erase(store.upkeep.plan_erasure(image), "rita")
    with sqlite3.connect(store.layout.index_file) as index:
        for table in ("reviews", "flags", "leases", "time_log", "skips"):
            rows = index.execute(f"SELECT COUNT(*) FROM {table} WHERE image_id IN ('i1', 'i3')").fetchone()
            assert rows == (0,), table
    index.close()
    assert not list(store.layout.revisions.glob("i1-*/**/*.review-*"))
    store.close()


def test_a_damaged_version_of_the_rules_leaves_the_one_before(store: LocalDatastore, tmp_path: Path) -> None:
    store.work.workflows.replace(Workflow(overlap_share=0.5), based_on=None, person="anna")
    (store.layout.state / "workflows" / "2.json").write_text("{")
    store.close()
    again = opened(tmp_path / "studies")
    assert again.work.rules.overlap_share == 1
    with pytest.raises(Conflict):
        again.work.workflows.replace(Workflow(), based_on=2, person="anna")
    assert again.work.workflows.replace(Workflow(), based_on=1, person="anna").version == 3
    again.close()
