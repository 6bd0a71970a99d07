"""Which series an application takes: the rule language of published applications, and what app.yaml may choose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelserver.domain.errors import InvalidParams, UnreadableFile
from labelserver.export.application.runtime.about import About, Outputs
from labelserver.export.application.runtime.selection import Rules
from labelserver.export.application.runtime.studies import find
from labelserver.export.application.writing import ApplicationOptions, application_json
from tests.support.dicom_studies import plain_image, write_series
from tests.support.exported_model import prepare


def takes(conditions: dict[str, Any], **fields: Any) -> bool:
    rules = Rules.from_json({"selections": [{"name": "one", "conditions": conditions}]})
    return rules.name_for(plain_image("1.2", "1.3", **fields)) == "one"


@pytest.mark.parametrize(
    ("conditions", "wanted"),
    [
        ({"Modality": "ct"}, True),
        ({"Modality": "(?i)^C"}, True),
        ({"Modality": "MR"}, False),
        ({"SeriesDescription": "ven"}, True),
        ({"SeriesDescription": "^ous"}, False),
        ({"StudyDescription": "(.*?)"}, True),
        ({"BodyPartExamined": "(.*?)"}, False),  # it is not there
        ({"BodyPartExamined": ""}, True),  # not looked at
        ({"SliceThickness": 9}, True),
        ({"SliceThickness": 8}, False),
        ({"SliceThickness": [5, 9]}, True),
        ({"SliceThickness": [5, 8]}, False),
        ({"SliceThickness": [2, ">"]}, True),
        ({"SliceThickness": [9, ">"]}, False),
        ({"SliceThickness": [9, ">="]}, True),
        ({"SliceThickness": [9, "<"]}, False),
        ({"SliceThickness": [9, "<="]}, True),
        ({"SliceThickness": [9, "!="]}, False),
        ({"SliceThickness": r"9(\.0)?"}, True),
        ({"SliceThickness": r"0"}, False),  # for a number all digits count
        ({"ImageType": ["PRIMARY", "!SECONDARY"]}, True),
        ({"ImageType": ["prim"]}, True),
        ({"ImageType": ["!PRIMARY"]}, False),
        ({"ImageType": "AXIAL"}, True),
        ({"ImageType": {"equals": ["ORIGINAL", "PRIMARY", "AXIAL"]}}, True),
        ({"ImageType": {"equals": ["ORIGINAL", "PRIMARY"]}}, False),
        ({"ImageOrientationPatient": "axial"}, True),
        ({"ImageOrientationPatient": "Coronal"}, False),
        ({"Modality": "CT", "SliceThickness": [5, 8]}, False),  # all must hold
    ],
)
def test_a_condition(conditions: dict[str, Any], wanted: bool) -> None:
    assert takes(conditions) is wanted


def test_the_view_is_the_main_axis_of_the_normal_and_needs_a_position() -> None:
    coronal = [1.0, 0.0, 0.0, 0.0, 0.1, -0.99]
    assert takes({"ImageOrientationPatient": "Coronal"}, ImageOrientationPatient=coronal)
    assert takes({"ImageOrientationPatient": "Sagittal"}, ImageOrientationPatient=[0.0, 1.0, 0.0, 0.0, 0.0, -1.0])
    with pytest.raises(InvalidParams, match="PatientPosition"):
        takes({"ImageOrientationPatient": "Axial"}, PatientPosition="")


def test_no_rules_take_everything_and_a_selection_without_conditions_nothing() -> None:
    image = plain_image("1.2", "1.3")
    assert Rules.from_json(None).name_for(image) == ""
    assert Rules.from_json({"selections": [{"name": "empty"}]}).name_for(image) is None
    several = [{"name": "a", "conditions": {"Modality": "MR"}}, {"name": "b", "conditions": {"Modality": "CT"}}]
    assert Rules.from_json({"selections": several}).name_for(image) == "b"


@pytest.mark.parametrize(
    "document", [{"selection": []}, {"selections": {}}, {"selections": [{"conditions": {"Modality": "("}}]}, [1]]
)
def test_rules_that_make_no_sense_are_refused(document: Any) -> None:
    with pytest.raises(InvalidParams):
        Rules.from_json(document)


def test_a_series_that_cannot_be_placed_is_an_error_unless_the_study_has_another(tmp_path: Path) -> None:
    write_series(tmp_path / "a", np.zeros((4, 4, 5)), series="1.2.1", study="1.1")[2].unlink()
    with pytest.raises(UnreadableFile, match="slices are missing"):
        find(tmp_path, Rules())
    write_series(tmp_path / "b", np.zeros((4, 4, 5)), series="1.2.2", study="1.1")
    found = find(tmp_path, Rules())
    assert [item.files.uid for item in found.dicom] == ["1.2.2"]
    assert "slices are missing" in found.left_out[0]
    write_series(tmp_path / "c", np.zeros((4, 4, 5)), series="1.2.3", study="1.9")[2].unlink()
    with pytest.raises(UnreadableFile):  # the other study has none
        find(tmp_path, Rules())


def test_links_and_hidden_folders_are_not_followed(tmp_path: Path) -> None:
    write_series(tmp_path / "outside", np.zeros((4, 4, 3)))
    (tmp_path / "in" / ".hidden").mkdir(parents=True)
    (tmp_path / "in" / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(UnreadableFile, match="neither DICOM images nor NIfTI"):
        find(tmp_path / "in", Rules())


def test_what_app_yaml_may_choose(tmp_path: Path) -> None:
    document = application_json(prepare(tmp_path / "model"), ApplicationOptions())
    (tmp_path / "application.json").write_text(json.dumps(document))
    about = About.read(tmp_path / "application.json")
    assert (about.outputs, about.rules.given) == (Outputs(), True)
    chosen = tmp_path / "app.yaml"
    chosen.write_text('{"labelserver": {"outputs": {"report": true}, "threads": 3, "selection": {}}}')
    configured = about.configured(chosen)
    assert (configured.outputs.report, configured.threads, configured.rules.given) == (True, 3, False)
    chosen.write_text("labelserver:\n  device: cpu\n")
    assert about.configured(chosen).device == "cpu"
    for wrong in ('{"labelserver": {"output": {}}}', '{"labelserver": {"outputs": {"pdf": "yes"}}}', "[1]", "a: [b"):
        chosen.write_text(wrong)
        with pytest.raises(InvalidParams):
            about.configured(chosen)
