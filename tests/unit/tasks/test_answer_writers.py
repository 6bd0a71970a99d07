"""Answers as files: the right format, the smallest dtype, the image's affine, and no path out of the folder."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nibabel as nib
import nrrd
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from labelserver.domain.errors import InvalidParams, UnsupportedFormat
from labelserver.imaging.seg_nrrd import read_seg_nrrd
from labelserver.imaging.volumes import read_volume
from labelserver.tasks.polygons import PolygonWriter
from labelserver.tasks.transforms import FindContoursd
from labelserver.tasks.writers import ClassificationWriter, DetectionWriter, Writer

AFFINE = np.array([[0.0, -2.0, 0.0, 5.0], [1.5, 0.0, 0.0, -6.0], [0.0, 0.0, 3.0, 7.0], [0, 0, 0, 1.0]])


@pytest.fixture(autouse=True)
def _spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def answer(**more: Any) -> dict[str, Any]:
    mask = torch.zeros(1, 4, 5, 6)
    mask[0, 1:3, 2, 3:5], mask[0, 3, 3, 3] = 1.0, 2.0
    return {
        "image_path": "/data/case.nii.gz",
        "pred": MetaTensor(mask, affine=torch.as_tensor(AFFINE)),
        "labels": {"liver": 1, "spleen": 2},
        "result": {"found": 2},
        **more,
    }


@pytest.mark.parametrize("extension", [".nii.gz", ".nii", ".nrrd", "nrrd", ".mha"])
def test_a_mask_keeps_voxels_affine_and_shape_in_every_format(extension: str, tmp_path: Path) -> None:
    file, document = Writer(json="result")(answer(result_extension=extension))
    volume = read_volume(Path(file))
    assert Path(file).parent == tmp_path
    assert file.endswith(extension)
    assert document == {"found": 2}
    assert volume.voxels.dtype == np.uint8
    assert np.allclose(volume.grid.affine, AFFINE)
    assert np.array_equal(volume.voxels, answer()["pred"].numpy()[0])


def test_r41_an_uncompressed_nrrd_is_raw_unsigned_bytes_with_x_fastest() -> None:
    request = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False}
    file, _ = Writer()(answer(**request))
    header = nrrd.read_header(file)
    assert (header["encoding"], header["type"], header["sizes"].tolist()) == ("raw", "uint8", [4, 5, 6])
    body = Path(file).read_bytes()[-4 * 5 * 6 :]
    assert body == answer()["pred"].numpy()[0].astype(np.uint8).tobytes(order="F")
    compressed, _ = Writer()(answer(result_extension=".nrrd", result_compress=True))
    assert nrrd.read_header(compressed)["encoding"] == "gzip"


def test_the_extension_follows_the_image_and_lossy_or_foreign_ones_become_lossless() -> None:
    for name, expected in [
        ("a.nii", ".nii"),
        ("a.nrrd", ".nrrd"),
        ("a.mha", ".mha"),
        ("series", ".nii.gz"),
        ("a.dcm", ".nii.gz"),
        ("a.seg.nrrd", ".seg.nrrd"),
    ]:
        assert Writer()(answer(image_path=f"/data/{name}"))[0].endswith(expected), name
    flat = torch.zeros(1, 4, 5)
    flat[0, 1, 2] = 1
    for name, expected in [("a.png", ".png"), ("a.jpg", ".png"), ("a.tif", ".tif")]:
        file, _ = Writer()(answer(image_path=f"/data/{name}", pred=flat))
        assert file.endswith(expected)
        assert np.array_equal(read_volume(Path(file)).voxels[:, :, 0], flat[0].numpy())


def test_without_a_format_or_a_wish_for_a_file_the_array_is_the_answer() -> None:
    no_path = answer()
    del no_path["image_path"]
    for data in (no_path, answer(result_write_to_file=False)):
        result, _ = Writer()(data)
        assert isinstance(result, np.ndarray)
        assert result.shape == (4, 5, 6)


@pytest.mark.parametrize("extension", ["/../../x.nii.gz", ".exe", ".jpg", ".json", "../a.nrrd"])
def test_an_extension_that_holds_no_mask_or_leaves_the_folder_is_refused(extension: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFormat, match="cannot be written"):
        Writer()(answer(result_extension=extension))
    assert list(tmp_path.iterdir()) == []


def test_a_dtype_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidParams, match="is no number type"):
        Writer()(answer(result_dtype="uint7"))
    assert read_volume(Path(Writer()(answer(result_dtype="uint16"))[0])).voxels.dtype == np.uint16
    many = torch.zeros(4, 5, 6)
    many[0, 0, 0] = 300
    assert read_volume(Path(Writer()(answer(pred=many))[0])).voxels.dtype == np.uint16
    assert read_volume(Path(Writer()(answer(pred=many + 0.5))[0])).voxels.dtype == np.float32


def test_layers_become_named_and_coloured_segments() -> None:
    layers = torch.zeros(2, 4, 5, 6)
    layers[0, 1], layers[1, 1:3] = 1, 1
    data = answer(pred=MetaTensor(layers, affine=torch.as_tensor(AFFINE)), color_map={"liver": [1, 2, 3]})
    file, _ = Writer()(data)
    assert file.endswith(".seg.nrrd")
    found = read_seg_nrrd(Path(file))
    assert [segment.name for segment in found.segments] == ["liver", "spleen"]
    assert found.segments[0].color == (1, 2, 3)
    assert np.allclose(found.grid.affine, AFFINE)
    assert np.array_equal(found.mask(1), layers[1].numpy() > 0)


def test_a_label_map_as_segments_is_taken_apart_by_value() -> None:
    found = read_seg_nrrd(Path(Writer()(answer(result_extension=".seg.nrrd"))[0]))
    assert [segment.name for segment in found.segments] == ["liver", "spleen"]
    assert np.array_equal(found.mask(1), answer()["pred"].numpy()[0] == 2)


def test_the_affine_that_restored_noted_wins() -> None:
    file, _ = Writer()(answer(pred_meta_dict={"affine": np.diag([1.0, 2.0, 3.0, 1.0])}))
    assert np.allclose(nib.load(file).affine, np.diag([1.0, 2.0, 3.0, 1.0]))


def test_classes_have_names_scores_and_positions() -> None:
    _, document = ClassificationWriter(label_names={"in": 0, "out": 1})({"pred": torch.tensor([0.25, 0.75])})
    assert document["prediction"][1] == {"idx": 1, "label": "out", "score": 0.75}


def test_boxes_become_regions_in_millimetres() -> None:
    data = {"box": torch.tensor([[1.0, 2, 3, 10, 20, 30]]), "label": torch.tensor([0]), "image_path": "/a/b.nii.gz"}
    file, document = DetectionWriter()(data)
    markup = json.loads(Path(file).read_text())["markups"][0]
    assert (markup["type"], markup["roiType"], markup["coordinateSystem"]) == ("ROI", "Box", "LPS")
    assert (markup["center"], markup["size"]) == ([1, 2, 3], [10, 20, 30])
    assert document["box"] == [[1, 2, 3, 10, 20, 30]]
    assert document["image"] == "b.nii.gz"


@pytest.fixture
def outlined() -> dict[str, Any]:
    mask = np.zeros((60, 50), np.uint8)
    mask[10:30, 5:25] = 1
    mask[15:20, 10:15] = 0
    mask[40:55, 30:45] = 2
    data = {"pred": mask, "location": [100, 200], "model": 'a "model"', "image_path": "/x/slide.png"}
    return dict(FindContoursd(keys="pred", labels=["Nuclei <1>", "Other"], min_poly_area=50)(data))


def test_outlines_are_closed_named_and_shifted(outlined: dict[str, Any]) -> None:
    entry = outlined["result"]["annotation"]
    assert [element["label"] for element in entry["elements"]] == ["Nuclei <1>", "Other"]
    (outline,) = entry["elements"][0]["contours"]
    xs, ys = zip(*outline, strict=True)
    assert (min(xs), max(xs)) in [(109, 130), (110, 130), (110, 129), (109, 129)]
    assert (min(ys), max(ys)) in [(204, 225), (205, 225), (205, 224), (204, 224)]
    assert outline[0] == outline[-1]


def test_only_outlines_around_a_click_are_kept() -> None:
    mask = np.zeros((60, 50), np.uint8)
    mask[10:30, 5:25] = mask[40:55, 30:45] = 1
    find = FindContoursd(keys="pred", key_foreground_points="foreground")
    found = find({"pred": mask, "foreground": [[45, 40]]})["result"]["annotation"]
    assert len(found["elements"][0]["contours"]) == 1


def test_polygons_become_files_of_slide_viewers(outlined: dict[str, Any]) -> None:
    file, document = PolygonWriter()(outlined)
    stored = json.loads(Path(str(file)).read_text())
    assert stored["elements"][0]["group"] == "Nuclei <1>"
    assert stored["elements"][0]["closed"] is True
    assert json.loads(stored["description"])["model"] == 'a "model"'
    assert document["location"] == [100, 200]
    root = ElementTree.parse(str(PolygonWriter()({**outlined, "output": "asap"})[0])).getroot()
    assert [a.get("PartOfGroup") for a in root.iter("Annotation")] == ["Nuclei <1>", "Other"]
    assert root.find("AnnotationGroups/Group").get("Color", "").startswith("#")  # type: ignore[union-attr]
    assert PolygonWriter()({**outlined, "output": "json"})[0] is None
