"""Segments with names and colours survive, also where they overlap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from labelserver.domain.errors import UnreadableFile
from labelserver.domain.geometry import Grid
from labelserver.imaging.seg_nrrd import read_seg_nrrd, rewrite_on, write_seg_nrrd
from labelserver.imaging.volumes import read_grid, write_volume

AFFINE = np.array([[1.0, 0, 0, -10], [0, 1.5, 0, 20], [0, 0, 2.0, 30], [0, 0, 0, 1]])
COLORS = [(255, 0, 0), (0, 128, 64)]


def layers_of(*, overlapping: bool) -> np.ndarray:
    layers = np.zeros((2, 5, 6, 7), np.uint8)
    layers[0, :3] = 1
    layers[1, 2 if overlapping else 3 :] = 1
    return layers


@pytest.mark.parametrize("overlapping", [True, False])
@pytest.mark.parametrize("compress", [True, False])
def test_each_segment_comes_back_bit_for_bit(overlapping: bool, compress: bool, tmp_path: Path) -> None:
    layers = layers_of(overlapping=overlapping)
    path = tmp_path / "s.seg.nrrd"
    write_seg_nrrd(path, layers, AFFINE, ["liver", "left kidney"], COLORS, compress=compress)
    back = read_seg_nrrd(path)
    assert [s.name for s in back.segments] == ["liver", "left kidney"]
    assert [s.color for s in back.segments] == COLORS
    assert back.grid.same_place(Grid((5, 6, 7), AFFINE))
    assert read_grid(path).same_place(back.grid)
    assert len(back.layers) == (2 if overlapping else 1)
    for index in range(2):
        assert np.array_equal(back.mask(index), layers[index] == 1)


def test_an_empty_segment_keeps_its_place(tmp_path: Path) -> None:
    path = tmp_path / "s.seg.nrrd"
    layers = layers_of(overlapping=False)
    layers[0] = 0
    write_seg_nrrd(path, layers, AFFINE, ["a", "b"], COLORS, compress=True)
    back = read_seg_nrrd(path)
    assert [s.name for s in back.segments] == ["a", "b"]
    assert not back.mask(0).any()
    assert np.array_equal(back.mask(1), layers[1] == 1)


def test_rewriting_keeps_names_colours_and_layers(tmp_path: Path) -> None:
    layers = layers_of(overlapping=True)
    write_seg_nrrd(tmp_path / "s.seg.nrrd", layers, AFFINE, ["a", "b"], COLORS, compress=True)
    source = read_seg_nrrd(tmp_path / "s.seg.nrrd")
    moved = Grid((5, 6, 7), np.diag([2.0, 2.0, 2.0, 1.0]))
    rewrite_on(tmp_path / "t.seg.nrrd", tmp_path / "s.seg.nrrd", source.layers[:, ::-1], moved)
    back = read_seg_nrrd(tmp_path / "t.seg.nrrd")
    assert back.segments == source.segments
    assert back.grid.same_place(moved)
    assert np.array_equal(back.layers, source.layers[:, ::-1])


def test_a_plain_nrrd_is_one_layer_without_segments(tmp_path: Path) -> None:
    write_volume(tmp_path / "m.seg.nrrd", np.ones((2, 3, 4), np.uint8), AFFINE, compress=True)
    back = read_seg_nrrd(tmp_path / "m.seg.nrrd")
    assert back.segments == ()
    assert back.layers.shape == (1, 2, 3, 4)


def test_a_segment_that_points_nowhere_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "s.seg.nrrd"
    write_seg_nrrd(path, layers_of(overlapping=True), AFFINE, ["a", "b"], COLORS, compress=False)
    path.write_bytes(path.read_bytes().replace(b"Segment1_Layer:=1", b"Segment1_Layer:=7"))
    with pytest.raises(UnreadableFile, match="layer 7"):
        read_seg_nrrd(path)


NAMES = [
    "\u809d\u81df",
    "foie (l\u00e9sion n\u00ba 2)",
    "\u043f\u0435\u0447\u0435\u043d\u044c",
    "a:=b",
    "back\\slash #1",
]


@pytest.mark.parametrize("compress", [True, False])
def test_names_of_any_language_come_back(compress: bool, tmp_path: Path) -> None:
    layers = np.zeros((len(NAMES), 5, 6, 7), np.uint8)
    for index in range(len(NAMES)):
        layers[index, index] = 1
    colors = [(index, 0, 0) for index in range(len(NAMES))]
    write_seg_nrrd(tmp_path / "s.seg.nrrd", layers, AFFINE, NAMES, colors, compress=compress)
    back = read_seg_nrrd(tmp_path / "s.seg.nrrd")
    assert [s.name for s in back.segments] == NAMES
    rewrite_on(tmp_path / "t.seg.nrrd", tmp_path / "s.seg.nrrd", back.layers, back.grid)
    assert read_seg_nrrd(tmp_path / "t.seg.nrrd").segments == back.segments
    assert np.array_equal(read_seg_nrrd(tmp_path / "t.seg.nrrd").layers, back.layers)


def test_a_line_break_in_a_name_begins_no_field(tmp_path: Path) -> None:
    names = ["liver\nSegment1_Name:=spleen", "\u00fc\r\nencoding: raw"]
    write_seg_nrrd(tmp_path / "s.seg.nrrd", layers_of(overlapping=False), AFFINE, names, COLORS, compress=True)
    back = read_seg_nrrd(tmp_path / "s.seg.nrrd")
    assert [s.name for s in back.segments] == ["liver Segment1_Name:=spleen", "\u00fc encoding: raw"]


def test_segments_without_a_name_go_by_their_id(tmp_path: Path) -> None:
    path = tmp_path / "s.seg.nrrd"
    write_seg_nrrd(path, layers_of(overlapping=True), AFFINE, ["a", "b"], COLORS, compress=False)
    blank = path.read_bytes().replace(b"_Name:=a", b"_Name:= ").replace(b"_Name:=b", b"_Name:=")
    path.write_bytes(blank)
    assert [s.name for s in read_seg_nrrd(path).segments] == ["Segment_1", "Segment_2"]


def test_a_name_in_latin_1_is_read(tmp_path: Path) -> None:
    path = tmp_path / "s.seg.nrrd"
    write_seg_nrrd(path, layers_of(overlapping=True), AFFINE, ["a", "b"], COLORS, compress=False)
    path.write_bytes(path.read_bytes().replace(b"_Name:=a", b"_Name:=l\xe9sion"))
    assert read_seg_nrrd(path).segments[0].name == "l\u00e9sion"


def test_a_header_without_an_end_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "s.seg.nrrd").write_bytes(b"NRRD0004\ntype: uint8\n" + b"# a remark\n" * 1000)
    with pytest.raises(UnreadableFile):
        read_seg_nrrd(tmp_path / "s.seg.nrrd")
