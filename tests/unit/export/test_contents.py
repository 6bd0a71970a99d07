"""The record of an export survives being written and read, and says what is wrong with a broken one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from labelserver.domain.errors import StoredDataInvalid
from labelserver.domain.schema import CodedTerm
from labelserver.export.contents import ExportContents, ExportedLabel, Provenance, RunSettings, write_about

CONTENTS = ExportContents(
    folder=Path("/nowhere"),
    app="radiology",
    model="segmentation",
    version=7,
    description="Organs",
    dimension=3,
    modality="CT",
    labels=(
        ExportedLabel(1, "liver", (200, 10, 20), CodedTerm("SCT", "10200004", "Liver")),
        ExportedLabel(2, "spleen", (0, 0, 255)),
    ),
    created_ts=12.5,
    requirements=("torch==2.13.0",),
    metrics={"dice": 0.5},
    key_metric="dice",
    provenance=Provenance(labels=3, verdict="published", decided_by="gate"),
    needs_scripts=True,
)


def written(folder: Path) -> ExportContents:
    contents = replace(CONTENTS, folder=folder)
    write_about(contents)
    return contents


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    assert written(tmp_path) == ExportContents.read(tmp_path)


def test_the_labels_stand_in_a_file_of_their_own(tmp_path: Path) -> None:
    written(tmp_path)
    labels = json.loads((tmp_path / "labels.json").read_text())["labels"]
    assert labels[0] == {
        "value": 1,
        "name": "liver",
        "color": [200, 10, 20],
        "term": {"scheme": "SCT", "value": "10200004", "meaning": "Liver"},
    }
    assert labels[1]["term"] is None


def test_the_record_holds_no_path(tmp_path: Path) -> None:
    written(tmp_path)
    assert str(tmp_path) not in (tmp_path / "about.json").read_text()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1, "labels": 3}'])
def test_a_broken_record_is_refused_with_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "about.json").write_text(text)
    with pytest.raises(StoredDataInvalid, match="Export the version again"):
        ExportContents.read(tmp_path)


def test_settings_are_read_again(tmp_path: Path) -> None:
    settings = RunSettings(threads=2, window=(96, 96, 96), window_batch=2, versions={"torch": "2.13.0"})
    (tmp_path / "settings.json").write_text(json.dumps(settings.to_json()))
    assert RunSettings.read(tmp_path / "settings.json") == settings
    with pytest.raises(StoredDataInvalid):
        RunSettings.read(tmp_path / "none.json")
