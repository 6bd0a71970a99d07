"""Who did what to which revision: each change has an entry, any edited line shows, the log outlives the index."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from labelserver.datastore.local import LocalDatastore
from labelserver.domain.ids import FINAL, ImageId
from labelserver.domain.labels import Provenance
from tests.support.study_folder import put_image, put_label

OpenStore = Callable[..., LocalDatastore]
A = ImageId("a")


@pytest.fixture
def store(studies: Path, open_store: OpenStore, tmp_path: Path) -> LocalDatastore:
    """Two saves by two people and a removal."""
    put_image(studies, "a.nii.gz")
    store = open_store()
    for person, value in (("Ada", 1), ("Bob", 2)):
        store.accept_label(A, put_label(tmp_path / "l.nii.gz", value), ".nii.gz", FINAL, Provenance(person), {})
    store.remove_label("a", "final", "Cyd")
    return store


def told(store: LocalDatastore) -> list[tuple[str, str, str, int | None]]:
    return [(e.act.person, e.act.action, e.act.image_id, e.act.revision) for e in store.audit_log(100)]


def reasons(store: LocalDatastore) -> list[str]:
    return [p.reason for p in store.upkeep.verify().findings]


def edit_index(store: LocalDatastore, statement: str) -> None:
    with sqlite3.connect(store.layout.index_file) as connection:
        connection.execute(statement)
    connection.close()


def test_every_change_has_an_entry_that_says_who_and_what(store: LocalDatastore, tmp_path: Path) -> None:
    store.add_image("b", str(put_image(tmp_path, "b.nii.gz")), {"user": "Dee"})
    store.remove_image("b", "Eve")
    store.restore_image(ImageId("b"), "Fay")
    assert told(store) == [
        ("Ada", "save", "a", 1),
        ("Bob", "save", "a", 2),
        ("Cyd", "withdraw", "a", 2),
        ("Dee", "add_image", "b", None),
        ("Eve", "remove_image", "b", None),
        ("Fay", "restore_image", "b", None),
    ]
    assert reasons(store) == []


def test_labels_that_lay_in_the_folder_have_entries_too(studies: Path, open_store: OpenStore) -> None:
    for n in range(20):
        put_image(studies, f"i{n}.nii.gz")
        put_label(studies / f"labels/final/i{n}.nii.gz")
    store = open_store()
    assert {e.act.detail["source"] for e in store.audit_log(100)} == {"import"}
    checked = store.upkeep.verify()
    assert (checked.entries, checked.revisions, checked.findings) == (20, 20, [])


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE audit SET person = 'Mallory' WHERE number = 2", "entry 2 was edited"),
        ("UPDATE audit SET detail = 'x' WHERE number = 1", "entry 1 was edited"),
        ("UPDATE audit SET created_ts = created_ts - 60 WHERE number = 3", "entry 3 was edited"),
        ("DELETE FROM audit WHERE number = 2", "entries 2 to 2 are missing"),
        ("DELETE FROM audit WHERE number = 3", "3 lines for 2 entries"),
        ("UPDATE audit SET action = 'erased', detail = '{}' WHERE number = 2", "entry 2 was emptied"),
        ("UPDATE revisions SET sha256 = 'f' WHERE number = 1", "another checksum"),
        ("DELETE FROM audit", "no such revision"),
    ],
)
def test_any_edited_row_of_the_index_is_found(store: LocalDatastore, statement: str, says: str) -> None:
    edit_index(store, statement)
    assert any(says in reason for reason in reasons(store))


@pytest.mark.parametrize("line", [0, 1, 2])
def test_any_edited_line_of_the_file_is_found(store: LocalDatastore, line: int) -> None:
    file = store.layout.audit_file
    lines = file.read_text().splitlines()
    lines[line] = lines[line].replace(json.loads(lines[line])["person"], "Eve")
    file.write_text("\n".join(lines) + "\n")
    assert any(f"line {line + 1} of the copy" in reason for reason in reasons(store))


@pytest.mark.parametrize("name", ["1.nii.gz", "2.nii.gz", "1.json", "2.json"])
def test_a_changed_or_missing_revision_file_is_found(store: LocalDatastore, name: str) -> None:
    file = store.revision_file(A, FINAL, 1).with_name(name)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    (finding,) = store.upkeep.verify().findings
    assert finding.path.endswith(name)
    file.unlink()
    (finding,) = store.upkeep.verify().findings
    assert "missing" in finding.reason


def test_a_chain_written_anew_does_not_hold_the_hash_that_was_noted(
    store: LocalDatastore, open_store: OpenStore
) -> None:
    head = store.upkeep.verify().head
    assert store.upkeep.verify(head).findings == []
    store.close()
    for part in (store.layout.audit_file, *store.layout.index_file.parent.glob("index.sqlite*")):
        part.unlink()
    again = open_store()
    assert again.upkeep.verify().findings == []
    assert any("not in the chain" in p.reason for p in again.upkeep.verify(head).findings)


def test_the_log_outlives_the_index(store: LocalDatastore, open_store: OpenStore) -> None:
    before = store.audit_log(100)
    store.close()
    for part in store.layout.index_file.parent.glob("index.sqlite*"):
        part.unlink()
    again = open_store()
    assert again.audit_log(100) == before
    assert reasons(again) == []


def test_what_neither_index_nor_log_tells_is_recovered_from_the_revisions(
    store: LocalDatastore, open_store: OpenStore
) -> None:
    store.close()
    lines = store.layout.audit_file.read_text().splitlines()
    store.layout.audit_file.write_text(lines[0] + "\n" + lines[1][:40])
    for part in store.layout.index_file.parent.glob("index.sqlite*"):
        part.unlink()
    again = open_store()
    assert told(again) == [("Ada", "save", "a", 1), ("Bob", "recovered", "a", 2)]
    assert reasons(again) == []


@pytest.mark.parametrize("content", [b"", b"noise\n", b'{"number": 1}\n', b"\x00" * 500])
def test_a_damaged_log_file_is_set_aside_and_written_again(
    content: bytes, store: LocalDatastore, open_store: OpenStore
) -> None:
    good = store.layout.audit_file.read_bytes()
    store.layout.audit_file.write_bytes(content)
    again = open_store()
    assert store.layout.audit_file.read_bytes() == good
    assert reasons(again) == []
    assert [p.path for p in again.problems()] == [".labelserver/audit.jsonl"]


def test_a_failed_save_leaves_no_entry(store: LocalDatastore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "the disk is on fire")

    monkeypatch.setattr("labelserver.datastore.labels.put_label", fail)
    with pytest.raises(OSError, match="fire"):
        store.save_label("a", str(put_label(tmp_path / "l.nii.gz")), "final", {})
    assert len(store.audit_log(100)) == 3


def test_entries_hold_no_hash_that_a_guess_could_confirm(store: LocalDatastore) -> None:
    salts = [e.act.detail["salt"] for e in store.audit_log(100)]
    assert len(set(salts)) == 3
