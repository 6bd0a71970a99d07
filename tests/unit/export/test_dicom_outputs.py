"""What an application writes lies where the source lies, says what the label schema says, and follows the standard."""

from __future__ import annotations

import dataclasses
import io
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.uid import UID

from labelserver.domain.errors import UnsupportedFormat
from labelserver.export.application.runtime.about import About, Label, Outputs, Term
from labelserver.export.application.runtime.answers import Answer
from labelserver.export.application.runtime.running import _answer, _objects
from labelserver.export.application.runtime.selection import Rules
from labelserver.export.application.runtime.studies import find
from labelserver.export.application.runtime.surfaces import surface_of, volume_of
from tests.support.dicom_studies import STUDY, write_ct, write_enhanced, write_series

LABELS = (
    Label(2, "liver", (221, 130, 101), Term("SCT", "10200004", "Liver")),
    Label(5, "Gefäß", (0, 151, 206)),
    Label(9, "nowhere", (0, 200, 0)),
)
SHAPE = (18, 16, 6)
#: a plane between coronal and axial
OBLIQUE = (1.0, 0.0, 0.0, 0.0, 0.8, 0.6)


def some_labels(shape: tuple[int, int, int] = SHAPE) -> NDArray[np.uint8]:
    labels = np.zeros(shape, np.uint8)
    labels[3:9, 2:12, 1:5] = 2
    labels[6:8, 4:7, 2:4] = 5
    return labels


def about(**outputs: Any) -> About:
    return About(
        name="radiology/liver",
        app="radiology",
        model="liver",
        model_folder="liver",
        version="7.0.0",
        description="",
        dimension=3,
        labels=LABELS,
        weights_sha256="ab" * 32,
        rules=Rules(),
        outputs=Outputs(**outputs),
    )


def answered(folder: Path, labels: NDArray[Any], **outputs: Any) -> tuple[Answer, dict[str, Any]]:
    """The one series of a folder as if it had been answered with `labels` (I, J, K); written and read again."""
    (item,) = find(folder, Rules()).dicom
    answer = _answer(about(**outputs), item, item.volume(), labels)
    made: dict[str, Any] = {}
    for name, dataset in _objects(answer):
        path = folder.parent / name
        dataset.save_as(path, enforce_file_format=True)
        made[name] = path
    return answer, made


def by_place(segmentation: Dataset) -> dict[tuple[int, tuple[float, ...]], NDArray[np.uint8]]:
    """(segment, ImagePositionPatient) -> (rows, columns), by pydicom alone."""
    pixels = segmentation.pixel_array
    found = {}
    for number, groups in enumerate(segmentation.PerFrameFunctionalGroupsSequence):
        segment = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        place = tuple(round(float(v), 4) for v in groups.PlanePositionSequence[0].ImagePositionPatient)
        found[segment, place] = pixels[number]
    return found


def check_places(answer: Answer, segmentation: Dataset) -> None:
    """Each source slice has the mask of that slice, in that place, and no other place has anything."""
    planes = by_place(segmentation)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ answer.volume.grid.affine
    for k in range(answer.labels.shape[2]):
        place = tuple(np.round(lps[:3, 3] + k * lps[:3, 2], 4))
        for number, label in enumerate(LABELS, start=1):
            wanted = (answer.labels[:, :, k] == label.value).T
            plane = planes.pop((number, place), np.zeros_like(wanted, np.uint8))
            assert np.array_equal(plane, wanted), (k, label.name)
    assert not planes


def plain(folder: Path) -> None:
    write_series(folder, np.zeros(SHAPE), spacing=(0.7, 1.3, 2.5))


def descending(folder: Path) -> None:
    write_series(folder, np.zeros(SHAPE), spacing=(0.7, 1.3, 2.5), descending=True)


def oblique(folder: Path) -> None:
    write_series(folder, np.zeros(SHAPE), orientation=OBLIQUE)


def tilted(folder: Path) -> None:
    for k in range(SHAPE[2]):
        write_ct(folder / f"{k}", (0.0, 0.4 * k, 2.0 * k), np.zeros((SHAPE[1], SHAPE[0])), InstanceNumber=k + 1)


def enhanced(folder: Path) -> None:
    order = [3, 0, 5, 1, 2, 4]
    write_enhanced(folder / "e", np.zeros(SHAPE), [(0.0, 0.0, 2.0 * k) for k in order])


@pytest.mark.parametrize("write", [plain, descending, oblique, tilted, enhanced])
@pytest.mark.parametrize("all_frames", [False, True])
def test_a_segmentation_lies_where_its_source_lies(
    tmp_path: Path, write: Callable[[Path], None], all_frames: bool
) -> None:
    write(tmp_path / "in")
    answer, made = answered(tmp_path / "in", some_labels(), all_frames=all_frames)
    segmentation = dcmread(made["segmentation.dcm"])
    check_places(answer, segmentation)
    if all_frames:
        assert len(segmentation.PerFrameFunctionalGroupsSequence) == SHAPE[2] * len(LABELS)


def test_a_segmentation_says_what_the_labels_are(tmp_path: Path) -> None:
    plain(tmp_path / "in")
    _, made = answered(tmp_path / "in", some_labels())
    segmentation = hd.seg.segread(made["segmentation.dcm"])
    assert [s.SegmentLabel for s in segmentation.SegmentSequence] == ["liver", "Gefäß", "nowhere"]
    first, second, _ = (segmentation.get_segment_description(n) for n in (1, 2, 3))
    assert (first.segmented_property_type.value, first.segmented_property_type.scheme_designator) == ("10200004", "SCT")
    assert second.segmented_property_type.scheme_designator == "99LABELSERVER"
    assert second.segmented_property_type.meaning == "Gefäß"
    assert first.algorithm_type.value == "AUTOMATIC"
    assert first.SegmentAlgorithmName == "radiology/liver"
    color = hd.color.CIELabColor.from_dicom_value(segmentation.SegmentSequence[0].RecommendedDisplayCIELabValue)
    assert np.abs(np.array(color.to_rgb()) - (221, 130, 101)).max() <= 2
    source = dcmread(next((tmp_path / "in").iterdir()))
    for name in ("PatientName", "PatientID", "PatientAge", "PatientWeight", "PatientSex", "FrameOfReferenceUID"):
        assert segmentation[name].value == source[name].value
    assert segmentation.StudyInstanceUID == STUDY
    assert segmentation.SeriesDescription == "liver: labels"


def test_tracking_uids_are_the_same_for_the_same_label_of_the_same_study(tmp_path: Path) -> None:
    plain(tmp_path / "in")
    found = []
    for number in range(2):
        _, made = answered(tmp_path / "in", some_labels() * number)
        segmentation = dcmread(made["segmentation.dcm"])
        found.append(([s.TrackingUID for s in segmentation.SegmentSequence], segmentation.SOPInstanceUID))
    assert found[0][0] == found[1][0]
    assert len(set(found[0][0])) == 3
    assert found[0][1] != found[1][1]


@pytest.mark.parametrize("write", [plain, oblique, enhanced])
def test_a_label_map_reads_back_to_the_same_labels(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "in")
    answer, made = answered(tmp_path / "in", some_labels(), segmentation="labelmap", all_frames=True)
    segmentation = hd.seg.segread(made["segmentation.dcm"])
    assert segmentation.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.7"
    planes = {}
    for number, groups in enumerate(segmentation.PerFrameFunctionalGroupsSequence):
        place = tuple(round(float(v), 4) for v in groups.PlanePositionSequence[0].ImagePositionPatient)
        planes[place] = segmentation.pixel_array[number]
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ answer.volume.grid.affine
    numbers = np.array([0, 0, 1, 0, 0, 2, 0, 0, 0, 3])[some_labels()]
    for k in range(SHAPE[2]):
        assert np.array_equal(planes[tuple(np.round(lps[:3, 3] + k * lps[:3, 2], 4))], numbers[:, :, k].T)


def test_a_source_without_identifiers_gets_the_same_ones_each_time(tmp_path: Path, dciodvfy: str) -> None:
    removed = dict.fromkeys(("AccessionNumber", "PatientID", "StudyID"))
    write_series(tmp_path / "in", np.zeros(SHAPE), **removed)
    for path in (tmp_path / "in").iterdir():
        data = dcmread(path)
        data.SOPClassUID = data.SOPInstanceUID = data.StudyInstanceUID = data.SeriesInstanceUID = ""
        data.save_as(path)
    found = []
    for _ in range(2):
        answer, made = answered(tmp_path / "in", some_labels(), report=True, pdf=True, mesh=True)
        check_places(answer, dcmread(made["segmentation.dcm"]))
        found.append(dcmread(made["segmentation.dcm"]).StudyInstanceUID)
    assert found[0] == found[1] != ""
    for path in made.values():
        said = subprocess.run([dciodvfy, str(path)], capture_output=True, text=True)
        assert not [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")]


def test_an_empty_answer_is_a_segmentation_without_voxels(tmp_path: Path) -> None:
    plain(tmp_path / "in")
    _, made = answered(tmp_path / "in", np.zeros(SHAPE, np.uint8))
    assert not dcmread(made["segmentation.dcm"]).pixel_array.any()


def test_an_enhanced_image_in_two_files_has_no_segmentation(tmp_path: Path) -> None:
    for name, part in (("a", (0, 2, 4)), ("b", (1, 3, 5))):
        write_enhanced(tmp_path / "in" / name, np.zeros((18, 16, 3)), [(0.0, 0.0, 2.0 * k) for k in part])
    with pytest.raises(UnsupportedFormat, match="refers to one"):
        answered(tmp_path / "in", some_labels())


def test_a_report_measures_the_volumes_and_refers_to_its_evidence(tmp_path: Path) -> None:
    plain(tmp_path / "in")
    _, made = answered(tmp_path / "in", some_labels(), report=True)
    segmentation = dcmread(made["segmentation.dcm"])
    report = hd.sr.srread(made["report.dcm"])
    assert report.SOPClassUID.name == "Comprehensive 3D SR Storage"
    groups = report.content.get_volumetric_roi_measurement_groups()
    volumes = [float(g.get_measurements()[0].value) for g in groups]
    voxel_ml = 0.7 * 1.3 * 2.5 / 1000
    counts = [int((some_labels() == value).sum()) for value in (2, 5)]
    assert volumes == pytest.approx([n * voxel_ml for n in counts], abs=1e-3)
    assert [g.finding_type.meaning for g in groups] == ["Liver", "Gefäß"]
    segments = [g.referenced_segment[0].ReferencedSOPSequence[0].ReferencedSegmentNumber for g in groups]
    assert segments == [1, 2]
    named = {
        item.ReferencedSOPInstanceUID
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert segmentation.SOPInstanceUID in named


def test_the_pdf_shows_volumes_and_pictures(tmp_path: Path) -> None:
    plain(tmp_path / "in")
    _, made = answered(tmp_path / "in", some_labels(), pdf=True)
    document = dcmread(made["pictures.dcm"])
    content = document.EncapsulatedDocument[: document.EncapsulatedDocumentLength]
    assert (document.Modality, document.MIMETypeOfEncapsulatedDocument) == ("DOC", "application/pdf")
    assert content.startswith(b"%PDF-")
    assert content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") + content.count(b"/Type /Page/") == 2


def test_a_picture_outlines_the_label_in_its_colour(tmp_path: Path) -> None:
    from labelserver.export.application.runtime.pictures import pdf_of, slice_with

    plain(tmp_path / "in")
    answer, _ = answered(tmp_path / "in", some_labels())
    k, picture = slice_with(answer, answer.measured[1])
    assert k in (2, 3)
    coloured = (picture == np.array([0, 151, 206], np.uint8)).all(axis=2)
    assert coloured.sum() == 6  # 2 x 3 voxels are all outline
    assert coloured[4:7, 6:8].all()
    assert len(pdf_of(answer)) > 2000


@pytest.mark.parametrize("write", [plain, descending, oblique])
def test_a_mesh_encloses_the_label_where_it_lies(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "in")
    answer, made = answered(tmp_path / "in", some_labels(), mesh=True)
    assert sorted(made) == ["mesh-1.dcm", "mesh-2.dcm", "segmentation.dcm"]
    document = dcmread(made["mesh-1.dcm"])
    assert document.SOPClassUID == UID("1.2.840.10008.5.1.4.1.1.104.3")
    content = document.EncapsulatedDocument[: document.EncapsulatedDocumentLength]
    (count,) = struct.unpack_from("<I", content, 80)
    assert len(content) == 84 + 50 * count
    facets = np.frombuffer(content, np.dtype([("n", "<f4", 3), ("c", "<f4", (3, 3)), ("a", "<u2")]), offset=84)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ answer.volume.grid.affine
    voxels = np.argwhere(some_labels() == 2)
    centres = voxels @ lps[:3, :3].T + lps[:3, 3]
    corners = facets["c"].reshape(-1, 3)
    half = np.abs(lps[:3, :3]).sum(axis=1) / 2
    assert np.allclose(corners.min(0), centres.min(0) - half, atol=half.max())
    assert np.allclose(corners.max(0), centres.max(0) + half, atol=half.max())
    enclosed = volume_of(facets["c"].astype(float))
    assert enclosed == pytest.approx(len(voxels) * abs(np.linalg.det(lps[:3, :3])), rel=0.25)
    assert document.FrameOfReferenceUID == answer.source.FrameOfReferenceUID


def test_a_surface_is_closed_and_faces_outwards() -> None:
    i, j, k = np.meshgrid(*(np.arange(24),) * 3, indexing="ij")
    ball = (i - 11.5) ** 2 + (j - 12) ** 2 + (k - 11) ** 2 < 81
    for affine in (np.eye(4), np.diag([-1.0, 1.0, 1.0, 1.0])):
        triangles = surface_of(ball, affine)
        assert volume_of(triangles) == pytest.approx(float(ball.sum()), rel=0.03)
        points, numbers = np.unique(triangles.reshape(-1, 3).round(6), axis=0, return_inverse=True)
        faces = numbers.reshape(-1, 3)
        directed = {tuple(pair) for n in range(3) for pair in faces[:, [n, (n + 1) % 3]]}
        assert len(directed) == 3 * len(faces)  # no edge twice in one direction
        assert all((b, a) in directed for a, b in directed)  # and each once in the other
        middle = np.array([11.5, 12, 11]) @ affine[:3, :3].T
        assert np.linalg.norm(points - middle, axis=1).max() < 9.8
    assert surface_of(np.zeros((3, 3, 3), bool), np.eye(4)).shape == (0, 3, 3)


@pytest.fixture
def dciodvfy() -> str:
    found = shutil.which("dciodvfy")
    if found is None:
        pytest.skip("dciodvfy (Debian package dicom3tools) is not installed")
    return found


@pytest.mark.parametrize("write", [plain, oblique, tilted, enhanced])
def test_dciodvfy_finds_no_error(tmp_path: Path, dciodvfy: str, write: Callable[[Path], None]) -> None:
    write(tmp_path / "in")
    _, made = answered(tmp_path / "in", some_labels(), report=True, pdf=True, mesh=True)
    assert len(made) == 5
    for name, path in made.items():
        said = subprocess.run([dciodvfy, str(path)], capture_output=True, text=True)
        errors = [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")]
        assert errors == [], name


def test_dciodvfy_finds_errors_where_there_are_some(tmp_path: Path, dciodvfy: str) -> None:
    plain(tmp_path / "in")
    _, made = answered(tmp_path / "in", some_labels())
    broken = dcmread(made["segmentation.dcm"])
    del broken.SegmentSequence[0].SegmentLabel
    broken.save_as(tmp_path / "broken.dcm")
    said = subprocess.run([dciodvfy, str(tmp_path / "broken.dcm")], capture_output=True, text=True)
    assert "Error" in said.stdout + said.stderr


def test_pages_are_real_pictures(tmp_path: Path) -> None:
    from labelserver.export.application.runtime import pictures

    plain(tmp_path / "in")
    answer, _ = answered(tmp_path / "in", some_labels())
    odd = dataclasses.replace(LABELS[1], name="a\nb\x00c")
    changed = dataclasses.replace(answer, measured=(dataclasses.replace(answer.measured[1], label=odd),))
    page = pictures._picture_page(changed, changed.measured)
    stream = io.BytesIO()
    page.save(stream, "PNG")
    assert Image.open(stream).size == page.size
    assert len(page.getcolors(1 << 24) or []) > 2
