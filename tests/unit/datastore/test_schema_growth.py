"""A large schema learns a name by a line, and loses none to a crash or a damaged file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from labelserver.datastore import schema_growth
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.errors import DiskFull
from labelserver.domain.schema import LabelSchema
from labelserver.storage import append
from tests.support.study_folder import put_image, put_label

OpenStore = Callable[..., LocalDatastore]
NAMES = [f"organ {number}" for number in range(5)]


@pytest.fixture
def store(studies: Path, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> LocalDatastore:
    """Five labels are many."""
    monkeypatch.setattr(schema_growth, "_SMALL", 4)
    put_image(studies, "a.nii.gz")
    store = open_store()
    store.learn_labels(NAMES)
    return store


def values(names: list[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names, start=1)}


def files(store: LocalDatastore) -> list[str]:
    return sorted(p.name for p in (store.layout.state / "schemas").iterdir())


def save_named(store: LocalDatastore, folder: Path, name: str) -> None:
    """Save a label whose one segment has this name."""
    file = put_label(folder / "upload.nii.gz")
    store.save_label("a", str(file), "final", {"label_info": [{"name": name, "idx": 1}]})


def test_a_name_costs_a_line_until_as_many_came_as_there_were(store: LocalDatastore) -> None:
    project = store.layout.state / "project.json"
    written = project.read_bytes()
    for number in range(5):
        store.learn_labels([*NAMES, *(f"more {n}" for n in range(number + 1))])
        assert project.read_bytes() == written
    assert files(store) == ["1.json", "1.jsonl"]
    lines = (store.layout.state / "schemas" / "1.jsonl").read_text().splitlines()
    assert [json.loads(line)["labels"][0]["name"] for line in lines] == [f"more {n}" for n in range(5)]
    store.learn_labels(["the next"])
    assert files(store) == ["1.json", "1.jsonl", "7.json"]
    store.learn_labels(["one more"])
    assert files(store) == ["1.json", "1.jsonl", "7.json", "7.jsonl"]
    assert store.schema().version == 8


def test_several_names_of_one_save_are_one_version(store: LocalDatastore) -> None:
    store.learn_labels([*NAMES, "x", "y", "z"])
    assert store.schema().version == 2
    assert store.label_values() == values([*NAMES, "x", "y", "z"])


def test_all_who_have_the_folder_open_see_what_was_learned(store: LocalDatastore, open_store: OpenStore) -> None:
    other = open_store()
    store.learn_labels(["x"])
    other.learn_labels(["y"])
    store.learn_labels(["z"])
    expected = values([*NAMES, "x", "y", "z"])
    assert store.label_values() == other.label_values() == open_store().label_values() == expected
    assert store.schema() == other.schema()


def test_a_schema_that_a_person_wrote_ends_what_was_learned(store: LocalDatastore, open_store: OpenStore) -> None:
    store.learn_labels(["x"])
    wanted = LabelSchema.from_json({"labels": [{"name": name} for name in NAMES]})
    store.set_schema(wanted)
    assert store.label_values() == open_store().label_values() == values(NAMES)
    store.learn_labels(["y"])
    assert open_store().label_values() == values([*NAMES, "y"])


def test_a_value_that_had_no_name_gets_one(store: LocalDatastore, open_store: OpenStore, tmp_path: Path) -> None:
    store.save_label("a", str(put_label(tmp_path / "l.nii.gz", value=9)), "final", {})
    assert store.label_values()["label_9"] == 9
    named = {"label_info": [{"name": "vein", "idx": 9}]}
    store.save_label("a", str(put_label(tmp_path / "l.nii.gz", value=9)), "final", named)
    assert store.label_values()["vein"] == 9
    assert open_store().schema() == store.schema()
    assert "1.jsonl" in files(store)


@pytest.mark.parametrize("torn", [b'{"version":3,"labels":[{"name":"gho', b'{"version":3,"labels":[{"name":"ghost"}]}'])
def test_a_line_that_was_cut_off_is_cut_away(store: LocalDatastore, open_store: OpenStore, torn: bytes) -> None:
    store.learn_labels(["x"])
    with (store.layout.state / "schemas" / "1.jsonl").open("ab") as stream:
        stream.write(torn)
    again = open_store()
    assert again.label_values() == values([*NAMES, "x"])
    assert again.problems() == []
    again.learn_labels(["y"])
    assert open_store().label_values() == store.label_values() == values([*NAMES, "x", "y"])


def test_a_line_that_could_not_be_written_changes_nothing(
    store: LocalDatastore, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.learn_labels(["x"])

    def half(descriptor: int, data: bytes, offset: int) -> int:
        written = writing(descriptor, data[:20], offset)
        if len(data) < 40:
            raise OSError(28, "No space left on device")
        return written

    writing = append.os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr("labelserver.storage.append.os.pwrite", half)
        with pytest.raises(DiskFull):
            store.learn_labels(["y"])
    assert store.label_values() == open_store().label_values() == values([*NAMES, "x"])
    store.learn_labels(["z"])
    assert open_store().label_values() == values([*NAMES, "x", "z"])


@pytest.mark.parametrize("versions_too", [False, True])
def test_a_lost_project_file_costs_nothing_of_what_was_learned(
    versions_too: bool, store: LocalDatastore, open_store: OpenStore, tmp_path: Path
) -> None:
    save_named(store, tmp_path, "x")
    (store.layout.state / "project.json").write_bytes(b"noise")
    if versions_too:
        for file in (store.layout.state / "schemas").iterdir():
            file.unlink()
    again = open_store()
    assert again.label_values()["x"] == 6
    assert [p.path for p in again.problems()] == [".labelserver/project.json"]
    again.learn_labels(["y"])
    assert open_store().label_values()["y"] != 6


def test_of_a_damaged_line_the_revisions_know_what_labels_use(
    store: LocalDatastore, open_store: OpenStore, tmp_path: Path
) -> None:
    store.learn_labels(["w"])
    save_named(store, tmp_path, "x")
    store.learn_labels(["y"])
    project = json.loads((store.layout.state / "project.json").read_bytes())["project"]
    learned = store.layout.state / "schemas" / "1.jsonl"
    lines = learned.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1][:10] + b"#" + lines[1][11:]
    learned.write_bytes(b"".join(lines))
    again = open_store()
    assert again.label_values() == values([*NAMES, "w", "x"]), "no label uses y, so nothing is lost with it"
    assert [p.path for p in again.problems()] == [".labelserver/project.json"]
    assert json.loads((store.layout.state / "project.json").read_bytes())["project"] == project
    again.learn_labels(["y"])
    assert open_store().label_values() == values([*NAMES, "w", "x", "y"])


def test_a_whole_schema_that_was_never_named_hides_no_line(store: LocalDatastore, open_store: OpenStore) -> None:
    store.learn_labels(["x"])
    whole = (store.layout.state / "schemas" / "1.json").read_text()
    (store.layout.state / "schemas" / "3.json").write_text(whole.replace('"version": 1', '"version": 3'))
    store.learn_labels(["y"])
    (store.layout.state / "project.json").unlink()
    assert open_store().label_values() == values([*NAMES, "x", "y"])
