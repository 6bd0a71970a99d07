"""A PACS takes what an application writes, over C-STORE and over STOW-RS, and gives back the same object."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from dicomweb_client import DICOMwebClient
from pydicom import Dataset, dcmread
from pynetdicom import AE

from tests.support.dicom_studies import STUDY, write_series
from tests.support.orthanc import Orthanc, running_orthanc
from tests.unit.export.test_dicom_outputs import answered, some_labels

pytestmark = pytest.mark.slow

SPACING = (0.7, 1.3, 2.5)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as place:
        yield place


def written(folder: Path, **outputs: object) -> dict[str, Dataset]:
    write_series(folder / "in", np.zeros((18, 16, 6)), spacing=SPACING, descending=True)
    _, made = answered(folder / "in", some_labels(), report=True, pdf=True, mesh=True, **outputs)
    return {name: dcmread(path) for name, path in made.items()}


def c_store(orthanc: Orthanc, datasets: list[Dataset]) -> None:
    sender = AE("TESTER")
    for dataset in datasets:
        sender.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = sender.associate("127.0.0.1", orthanc.dicom_port, ae_title=orthanc.aet)
    assert association.is_established
    try:
        for dataset in datasets:
            assert association.send_c_store(dataset).Status == 0x0000, dataset.SOPClassUID.name
    finally:
        association.release()


def read_back(orthanc: Orthanc, dataset: Dataset) -> Dataset:
    """By Orthanc's own lookup, as its file."""
    (key,) = httpx.post(f"{orthanc.url}/tools/lookup", content=dataset.SOPInstanceUID).json()
    return dcmread(BytesIO(httpx.get(f"{orthanc.url}/instances/{key['ID']}/file").content))


def test_everything_is_stored_over_dimse_and_comes_back(orthanc: Orthanc, tmp_path: Path) -> None:
    made = written(tmp_path)
    assert len(made) == 5
    c_store(orthanc, list(made.values()))
    for dataset in made.values():
        assert read_back(orthanc, dataset).to_json() == dataset.to_json()


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_a_segmentation_is_stored_over_stow_and_comes_back(orthanc: Orthanc, tmp_path: Path, kind: str) -> None:
    segmentation = written(tmp_path, segmentation=kind)["segmentation.dcm"]
    client = DICOMwebClient(orthanc.dicomweb)
    stored = client.store_instances([segmentation])
    assert not stored.get("FailedSOPSequence")
    (found,) = client.search_for_series(STUDY, search_filters={"SeriesInstanceUID": segmentation.SeriesInstanceUID})
    assert found["00080060"]["Value"] == ["SEG"]
    back = client.retrieve_instance(STUDY, segmentation.SeriesInstanceUID, segmentation.SOPInstanceUID)
    assert np.array_equal(back.pixel_array, segmentation.pixel_array)
    places = [
        [tuple(g.PlanePositionSequence[0].ImagePositionPatient) for g in one.PerFrameFunctionalGroupsSequence]
        for one in (back, segmentation)
    ]
    assert places[0] == places[1]
