"""Labels on the RAS+ grid over HTTP: what a page draws is what the file holds, in the file's own axes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import httpx
import nibabel as nib
import nrrd
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from labelserver.imaging.reordering import ras_change
from labelserver.imaging.volumes import read_volume, write_volume
from tests.api.conftest import AFFINE, SHAPE, World, label_bytes, nifti
from tests.property.test_reordering import CHANGES, grid_of

ADA = {"X-Labelserver-Person": "Ada"}


def url(image: str, rest: str = "voxels") -> str:
    return f"/api/v1/images/{image}/labels/final/{rest}"


def as_bytes(drawn: NDArray[Any]) -> bytes:
    return drawn.tobytes(order="F")


def put(world: World, image: str, data: bytes, params: dict[str, Any] | None = None, **more: Any) -> httpx.Response:
    texts = {"params": json.dumps(params or {}), **more.pop("texts", {})}
    return world.http.put(url(image), files={"voxels": ("map", data)}, data=texts, **more)


def shown(answer: httpx.Response) -> tuple[dict[str, Any], NDArray[Any]]:
    told = json.loads(answer.headers["x-labelserver-box"])
    shape = tuple(b - a for a, b in zip(told["lo"], told["hi"], strict=True))
    return told, np.frombuffer(answer.content, told["dtype"]).reshape(shape, order="F")


@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (11.0, -23.0, 7.5)], ids=["straight", "oblique"])
def test_a_drawing_lands_in_every_file_voxel_for_voxel(world: World, angles: tuple[float, float, float]) -> None:
    grid = grid_of((5, 6, 7), (0.9, 1.3, 4.0), angles)
    drawn = np.random.default_rng(3).integers(0, 4, grid.shape).astype(np.uint8)
    for number, change in enumerate(CHANGES):
        pixels = np.zeros(grid.shape, np.int16)
        write_volume(
            world.roots.studies / f"o{number}.nii.gz",
            change.apply(pixels),
            change.apply_to_grid(grid).affine,
            compress=True,
        )
    world.store.refresh()
    for number, change in enumerate(CHANGES):
        assert put(world, f"o{number}", gzip.compress(as_bytes(drawn))).status_code == 200
        image = nib.load(world.roots.studies / f"o{number}.nii.gz")
        stored = nib.load(world.store.get_label_uri(f"o{number}", "final"))
        np.testing.assert_array_equal(stored.affine, image.affine)
        np.testing.assert_array_equal(np.asanyarray(stored.dataobj), change.apply(drawn), err_msg=str(change))
        told, back = shown(world.http.get(url(f"o{number}", "box")))
        assert (told["lo"], told["hi"], told["revision"]) == ([0, 0, 0], list(grid.shape), 1)
        np.testing.assert_array_equal(back, drawn)
        _, part = shown(world.http.get(url(f"o{number}", "box?lo=1,2,3&hi=4,6,5")))
        np.testing.assert_array_equal(part, drawn[1:4, 2:6, 3:5])


def test_an_old_save_is_refused_and_both_labels_are_kept(world: World) -> None:
    first, second = np.zeros(SHAPE, np.uint8), np.ones(SHAPE, np.uint8)
    made = put(world, "ct_1", as_bytes(first), {"source": "prompts", "model": "click3d"}, headers=ADA)
    assert (made.json()["author"], made.json()["source"], made.json()["model"]) == ("Ada", "prompts", "click3d")
    etag = made.json()["etag"]
    assert etag == made.headers["etag"] == shown(world.http.get(url("ct_1", "box")))[0]["etag"]
    assert put(world, "ct_1", as_bytes(second), headers={"If-Match": etag}).status_code == 200
    late = put(world, "ct_1", as_bytes(first), headers={"If-Match": etag})
    assert (late.status_code, late.json()["code"]) == (412, "LabelChanged")
    unaware = put(world, "ct_1", as_bytes(first), headers={"If-None-Match": "*"})
    assert unaware.status_code == 412
    assert (shown(world.http.get(url("ct_1", "box")))[1] == 1).all()
    assert (shown(world.http.get(url("ct_1", "box?revision=1")))[1] == 0).all()
    assert world.spool_is_empty()


def test_values_above_255_take_two_bytes(world: World) -> None:
    drawn = np.zeros(SHAPE, np.uint16)
    drawn[2, 3, 1] = 300
    assert put(world, "ct_1", gzip.compress(as_bytes(drawn.astype("<u2")))).status_code == 200
    told, back = shown(world.http.get(url("ct_1", "box")))
    assert told["dtype"] == "uint16"
    np.testing.assert_array_equal(back, drawn)
    small, part = shown(world.http.get(url("ct_1", "box?lo=0,0,0&hi=2,2,2")))
    assert small["dtype"] == "uint8"
    assert not part.any()


def test_a_picture_gets_a_picture(world: World) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (6, 9, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(world.roots.studies / "photo.png")
    world.store.refresh()
    drawn = np.random.default_rng(2).integers(0, 3, (9, 6, 1)).astype(np.uint8)
    assert put(world, "photo", as_bytes(drawn)).json()["ext"] == ".png"
    stored = np.asarray(Image.open(world.store.get_label_uri("photo", "final")))
    np.testing.assert_array_equal(stored, drawn[:, :, 0].T)
    np.testing.assert_array_equal(shown(world.http.get(url("photo", "box")))[1], drawn)


def test_labels_of_other_programs_are_shown_on_the_grid(world: World, tmp_path: Path) -> None:
    """Flipped by their own header, or with layers that overlap."""
    flipped = np.diag([-1.0, 1.5, 2.0, 1.0])
    flipped[0, 3] = SHAPE[0] - 1
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[1, 2, 3] = 1
    file = nifti(tmp_path / "flipped.nii.gz", drawn[::-1], flipped)
    world.http.put("/api/v1/images/ct_1/labels/final", files={"label": ("f.nii.gz", file.read_bytes())})
    np.testing.assert_array_equal(shown(world.http.get(url("ct_1", "box")))[1], drawn)


def test_overlapping_segments_are_shown_as_one_map_that_says_so(world: World, tmp_path: Path) -> None:
    layers = np.zeros((2, *SHAPE), np.uint8)
    layers[0, 1:4, 1, 1] = 1
    layers[1, 3:5, 1, 1] = 1
    header = {"space": "right-anterior-superior", "kinds": ["list", "domain", "domain", "domain"]}
    header |= {"space directions": np.vstack([np.full(3, np.nan), AFFINE[:3, :3]]), "space origin": np.zeros(3)}
    for number, name in enumerate(("liver", "spleen")):
        header |= {f"Segment{number}_{key}": value for key, value in (("Name", name), ("ID", name))}
        header |= {f"Segment{number}_Layer": str(number), f"Segment{number}_LabelValue": "1"}
    nrrd.write(str(tmp_path / "a.seg.nrrd"), layers, header)
    file = {"label": ("a.seg.nrrd", (tmp_path / "a.seg.nrrd").read_bytes())}
    assert world.http.put("/api/v1/images/ct_1/labels/final", files=file).status_code == 200
    told, back = shown(world.http.get(url("ct_1", "box")))
    assert (told["overlapping"], told["revision"]) == (1, 1)
    np.testing.assert_array_equal(back[:, 1, 1], [0, 1, 1, 2, 2, 0])


def test_an_annotated_part_is_told_in_voxels_of_the_grid(world: World) -> None:
    flipped = nifti(world.roots.studies / "flip.nii.gz", np.zeros(SHAPE, np.int16), AFFINE @ np.diag([1, 1, -1, 1]))
    assert ras_change(read_volume(flipped).grid).reversed_axes == (False, False, True)
    world.store.refresh()
    annotated = {"labels": None, "region": {"kind": "slices", "axis": 2, "slices": [0]}}
    made = put(world, "flip", bytes(120), texts={"annotated": json.dumps(annotated)})
    assert made.json()["annotated"]["region"] == {"kind": "slices", "axis": 2, "slices": [SHAPE[2] - 1]}


def test_a_correction_keeps_the_part_and_adds_what_it_changed(world: World) -> None:
    part = {"labels": None, "region": {"kind": "slices", "axis": 2, "slices": [0]}}
    etag = put(world, "ct_1", bytes(120), texts={"annotated": json.dumps(part)}).headers["etag"]
    told, drawn = shown(world.http.get(url("ct_1", "box")))
    assert (told["annotated_labels"], told["annotated_part"], told["etag"]) == (None, True, etag)
    drawn = drawn.copy(order="F")
    drawn[:, :, 2] = 1
    made = put(world, "ct_1", as_bytes(drawn), headers={"If-Match": etag}).json()
    assert made["annotated"]["region"] == {"kind": "slices", "axis": 2, "slices": [0, 2]}
    everything = {"annotated": json.dumps({"region": {"kind": "whole"}})}
    made = put(world, "ct_1", as_bytes(drawn), texts=everything, headers={"If-Match": made["etag"]}).json()
    assert made["annotated"] == {"labels": None, "region": {"kind": "whole"}}
    assert shown(world.http.get(url("ct_1", "box")))[0]["annotated_part"] is False


def test_labels_of_two_people_become_those_of_one_image(world: World) -> None:
    schema = {"mode": "open", "labels": [{"name": "liver", "value": 1}, {"name": "spleen", "value": 2}]}
    world.http.put("/api/v1/schema", json=schema)
    liver, spleen = ({"annotated": json.dumps({"labels": [n], "adds": True})} for n in ("liver", "spleen"))
    first = put(world, "ct_1", bytes(120), texts=liver, headers={"If-None-Match": "*"}).json()
    assert first["annotated"]["labels"] == ["liver"]
    second = put(world, "ct_1", bytes(120), texts=spleen, headers={"If-Match": first["etag"]}).json()
    assert second["annotated"] == {"labels": ["liver", "spleen"], "region": {"kind": "whole"}}
    refused = put(world, "ct_1", bytes(120), texts=spleen)
    assert refused.status_code == 422
    assert "If-Match" in refused.json()["detail"]
    refused = put(world, "ct_1", bytes(120), texts={"annotated": '{"adds": 1}'})
    assert refused.status_code == 422


def test_a_submitted_draft_goes(world: World) -> None:
    mine = "/api/v1/images/ct_1/drafts/mine"
    number = world.http.put(f"{mine}/voxels", files={"voxels": ("m", gzip.compress(bytes(120)))}).json()["number"]
    put(world, "ct_1", bytes(120), {"draft": number - 1})
    assert world.http.get(f"{mine}/state").status_code == 200  # somebody drew on meanwhile
    put(world, "ct_1", bytes(120), {"draft": number})
    assert world.http.get(f"{mine}/state").status_code == 404


@pytest.mark.parametrize(
    ("data", "params", "status"),
    [
        (bytes(119), {}, 422),
        (bytes(121), {}, 422),
        (gzip.compress(bytes(120))[:-4], {}, 422),
        (gzip.compress(bytes(120)) + b"more", {}, 422),
        (gzip.compress(bytes(10**7)), {}, 422),
        (b"\x1f\x8bnothing", {}, 422),
        (bytes(120), {"draft": "x"}, 422),
        (bytes(120), {"label_info": 3}, 422),
    ],
)
def test_what_is_no_map_of_the_image_changes_nothing(
    world: World, data: bytes, params: dict[str, Any], status: int
) -> None:
    before = world.files()
    answer = put(world, "ct_1", data, params)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["detail"]
    assert world.files() == before
    assert world.spool_is_empty()


def test_a_box_that_makes_no_sense_is_refused(world: World, tmp_path: Path) -> None:
    assert world.http.get(url("ct_1", "box")).status_code == 404
    world.http.put("/api/v1/images/ct_1/labels/final", files={"label": ("f.nii.gz", label_bytes(tmp_path))})
    for query in ("lo=0,0", "lo=0,0,0&hi=0,1,1", "hi=7,5,4", "lo=a,b,c"):
        assert world.http.get(url("ct_1", f"box?{query}")).status_code == 422, query
    assert world.http.get(url("ct_1", "box?revision=9")).status_code == 404
    assert world.http.get(url("none", "box")).status_code == 404
    assert put(world, "none", bytes(120)).status_code == 404


def test_an_unchanged_box_is_not_sent_again(world: World, tmp_path: Path) -> None:
    world.http.put("/api/v1/images/ct_1/labels/final", files={"label": ("f.nii.gz", label_bytes(tmp_path))})
    etag = world.http.get(url("ct_1", "box")).headers["etag"]
    assert world.http.get(url("ct_1", "box"), headers={"If-None-Match": etag}).status_code == 304
    assert put(world, "ct_1", bytes(120), headers={"If-Match": etag}).status_code == 200  # it names the label, too
