"""Labels with their history over HTTP: nothing is lost, nobody overwrites what he has not seen."""

from __future__ import annotations

import gzip
import json
import threading
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from labelserver.imaging.seg_nrrd import write_seg_nrrd
from tests.api.conftest import AFFINE, SHAPE, Make, World, label_bytes, nifti
from tests.fakes.fake_engine import described

URL = "/api/v1/images/ct_1/labels/final"


def put(world: World, content: bytes, person: str = "Ada", name: str = "l.nii.gz", **headers: str) -> Any:
    headers = {key.replace("_", "-"): value for key, value in headers.items()}
    return world.http.put(
        URL,
        files={"label": (name, content)},
        data={"params": json.dumps({"client_id": person, "label_info": [{"name": "liver", "idx": 1}]})},
        headers=headers,
    )


def voxels_of(answer: Any, folder: Path) -> np.ndarray:
    path = folder / "downloaded.nii.gz"
    path.write_bytes(answer.content)
    return np.asarray(nib.load(path).dataobj)


def test_history_names_who_saved_what_and_when(world: World, tmp_path: Path) -> None:
    content = label_bytes(tmp_path)
    first = put(world, content, "Ada").json()
    second = put(world, content, "Bob").json()
    assert (first["number"], first["parent"], second["number"], second["parent"]) == (1, None, 2, 1)
    listed = world.http.get(f"{URL}/revisions").json()["revisions"]
    assert [(r["number"], r["author"], r["current"]) for r in listed] == [(1, "Ada", False), (2, "Bob", True)]
    one = world.http.get(f"{URL}/revisions/1").json()
    assert {"client", "created_ts", "time", "source", "model_version", "sha256", "schema_version", "info"} <= set(one)
    assert one["info"]["segments"] == [{"id": "liver", "name": "liver", "value": 1}]
    assert one["source"] == "hand"


def test_any_revision_can_be_fetched_and_restored(world: World, tmp_path: Path) -> None:
    old, new = label_bytes(tmp_path), nifti(tmp_path / "n.nii.gz", np.ones(SHAPE, np.uint8)).read_bytes()
    put(world, old)
    put(world, new)
    assert world.http.get(f"{URL}/revisions/1/file").content == old
    restored = world.http.post(f"{URL}/revisions/1/restore", headers={"X-Labelserver-Person": "Eve"}).json()
    assert (restored["number"], restored["parent"], restored["author"]) == (3, 2, "Eve")
    assert (restored["source"], restored["info"]["restored_from"], restored["current"]) == ("restore", 1, True)
    assert world.http.get(URL).content == old
    assert world.http.get("/datastore/label?label=ct_1&tag=final").content == old
    assert world.http.get(f"{URL}/revisions/2/file").content == new


def test_a_removed_label_keeps_its_history_and_can_be_restored(world: World, tmp_path: Path) -> None:
    put(world, label_bytes(tmp_path))
    world.http.delete("/datastore/label?id=ct_1&tag=final")
    assert world.http.get(URL).status_code == 404
    assert [r["current"] for r in world.http.get(f"{URL}/revisions").json()["revisions"]] == [False]
    assert world.http.post(f"{URL}/revisions/1/restore").json()["number"] == 2
    assert world.http.get(URL).status_code == 200


def test_the_diff_counts_voxels_and_names_the_changed_box(world: World, tmp_path: Path) -> None:
    before, after = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    before[1:4, 1, 1], after[2:6, 1, 1] = 1, 1
    put(world, nifti(tmp_path / "b.nii.gz", before).read_bytes())
    put(world, nifti(tmp_path / "a.nii.gz", after).read_bytes())
    diff = world.http.get(f"{URL}/diff?from=1&to=2").json()
    assert diff == world.http.get(f"{URL}/diff").json()
    assert diff["changed_box_ijk"] == {"first": [1, 1, 1], "last": [5, 1, 1]}
    assert diff["changed_voxels"] == 3
    (label,) = diff["labels"]
    assert (label["name"], label["before"], label["after"], label["added"], label["removed"]) == ("liver", 3, 4, 2, 1)
    assert label["dice"] == pytest.approx(2 * 2 / 7)
    same = world.http.get(f"{URL}/diff?from=1&to=1").json()
    assert (same["changed_box_ijk"], same["labels"][0]["dice"]) == (None, 1.0)


def test_the_diff_of_overlapping_segments_looks_at_each(world: World, tmp_path: Path) -> None:
    layers = np.zeros((2, *SHAPE), np.uint8)
    layers[0, :3], layers[1, 2:] = 1, 1
    path = tmp_path / "l.seg.nrrd"
    for end in (3, 4):
        layers[0, :end] = 1
        write_seg_nrrd(path, layers, AFFINE, ["liver", "vessel"], [(1, 2, 3), (4, 5, 6)], compress=True)
        assert put(world, path.read_bytes(), name="l.seg.nrrd").status_code == 200
    changed = {c["name"]: (c["added"], c["removed"]) for c in world.http.get(f"{URL}/diff").json()["labels"]}
    assert changed == {"liver": (20, 0), "vessel": (0, 0)}
    assert world.http.get(URL).content == path.read_bytes()
    flat = world.http.get(f"{URL}?flat=true")
    assert flat.headers["X-Labelserver-Overlapping-Voxels"] == str(2 * 20)
    values = {v["name"]: v["value"] for v in world.http.get("/api/v1/schema").json()["labels"]}
    shown = voxels_of(flat, tmp_path)
    assert (shown[0, 0, 0], shown[5, 0, 0]) == (values["liver"], values["vessel"])
    assert world.spool_is_empty()


def test_a_stale_save_is_refused_and_names_the_newer_revision(world: World, tmp_path: Path) -> None:
    mine = put(world, label_bytes(tmp_path), "Ada")
    etag = world.http.get(URL).headers["ETag"]
    assert etag == mine.headers["ETag"] == world.http.get("/datastore/label?label=ct_1&tag=final").headers["ETag"]
    theirs = put(world, nifti(tmp_path / "n.nii.gz", np.ones(SHAPE, np.uint8)).read_bytes(), "Bob", If_Match=etag)
    assert theirs.status_code == 200
    before = world.files()
    late = put(world, label_bytes(tmp_path), "Ada", If_Match=etag)
    assert late.status_code == 412
    problem = late.json()
    assert problem["code"] == "LabelChanged"
    assert (problem["fields"]["number"], problem["fields"]["author"]) == (2, "Bob")
    assert problem["fields"]["time"] == world.http.get(f"{URL}/revisions/2").json()["time"][:19] + "+00:00"
    assert world.files() == before
    assert put(world, label_bytes(tmp_path), "Ada", If_Match=theirs.headers["ETag"]).status_code == 200


def test_if_none_match_star_saves_only_a_first_label(world: World, tmp_path: Path) -> None:
    assert put(world, label_bytes(tmp_path), If_Match='"0"').status_code == 412
    assert put(world, label_bytes(tmp_path), If_Match="*").status_code == 412
    assert put(world, label_bytes(tmp_path), If_None_Match="*").status_code == 200
    assert put(world, label_bytes(tmp_path), If_None_Match="*").status_code == 412
    assert put(world, label_bytes(tmp_path), If_Match="*").status_code == 200
    assert put(world, label_bytes(tmp_path), If_Match="nonsense").status_code == 412
    weak = "W/" + world.http.get(URL).headers["ETag"]
    assert put(world, label_bytes(tmp_path), If_Match=weak).status_code == 412


@pytest.mark.parametrize("form", ["{0}", '"old", {0}', ' "old" ,{0}, ', 'W/"weak", {0}', "{0}, *"])
def test_if_match_takes_a_list(form: str, world: World, tmp_path: Path) -> None:
    etag = put(world, label_bytes(tmp_path)).headers["ETag"]
    assert put(world, label_bytes(tmp_path), If_Match=form.format(etag)).status_code == 200


@pytest.mark.parametrize("form", ["", " ", ",", '"old", "older"', "W/{0}", 'W/"weak", W/{0}', '"{0}"', '"pre{1}"'])
def test_an_if_match_that_does_not_name_the_label_changes_nothing(form: str, world: World, tmp_path: Path) -> None:
    etag = put(world, label_bytes(tmp_path)).headers["ETag"]
    before = world.files()
    assert put(world, label_bytes(tmp_path), If_Match=form.format(etag, etag.strip('"'))).status_code == 412
    assert world.files() == before


def test_if_match_in_several_headers_is_one_list(world: World, tmp_path: Path) -> None:
    etag = put(world, label_bytes(tmp_path)).headers["ETag"]
    for tags in (('"old"', etag), (etag, '"old"')):
        answer = world.http.put(
            URL,
            files={"label": ("l.nii.gz", label_bytes(tmp_path))},
            headers=[("If-Match", tag) for tag in tags],
        )
        assert answer.status_code == 200


def test_a_stale_removal_is_refused(world: World, tmp_path: Path) -> None:
    etag = put(world, label_bytes(tmp_path), "Ada").headers["ETag"]
    put(world, nifti(tmp_path / "n.nii.gz", np.ones(SHAPE, np.uint8)).read_bytes(), "Bob")
    before = world.files()
    late = world.http.delete("/datastore/label?id=ct_1", headers={"If-Match": etag})
    assert (late.status_code, "revision 2 by Bob" in late.json()["detail"]) == (412, True)
    assert world.files() == before
    seen = world.http.get(URL).headers["ETag"]
    assert world.http.delete("/datastore/label?id=ct_1", headers={"If-Match": seen}).status_code == 200
    assert world.http.delete("/datastore/label?id=ct_1", headers={"If-Match": seen}).status_code == 412
    assert world.http.delete("/datastore/label?id=ct_1").status_code == 200


def test_a_stale_restore_is_refused(world: World, tmp_path: Path) -> None:
    etag = put(world, label_bytes(tmp_path), "Ada").headers["ETag"]
    put(world, nifti(tmp_path / "n.nii.gz", np.ones(SHAPE, np.uint8)).read_bytes(), "Bob")
    assert world.http.post(f"{URL}/revisions/1/restore", headers={"If-Match": etag}).status_code == 412
    assert len(world.http.get(f"{URL}/revisions").json()["revisions"]) == 2


def test_the_old_route_honours_if_match_and_without_it_keeps_everything(world: World, tmp_path: Path) -> None:
    old = {"label": ("l.nii.gz", label_bytes(tmp_path))}
    new = {"label": ("l.nii.gz", nifti(tmp_path / "n.nii.gz", np.ones(SHAPE, np.uint8)).read_bytes())}
    etag = world.http.put("/datastore/label?image=ct_1", files=old).headers["ETag"]
    assert world.http.put("/datastore/label?image=ct_1", files=new).status_code == 200
    late = world.http.put("/datastore/label?image=ct_1", files=old, headers={"If-Match": etag})
    assert late.status_code == 412
    assert "revision 2" in late.json()["detail"]
    assert len(world.http.get(f"{URL}/revisions").json()["revisions"]) == 2


def test_of_many_saves_from_one_start_exactly_one_wins(world: World, tmp_path: Path) -> None:
    etag = put(world, label_bytes(tmp_path)).headers["ETag"]
    contents = [
        nifti(tmp_path / f"{n}.nii.gz", np.full(SHAPE, 1, np.uint8) * (np.arange(SHAPE[2]) <= n % 4)).read_bytes()
        for n in range(4)
    ]
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda c=c: statuses.append(put(world, c, If_Match=etag).status_code)) for c in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 412, 412, 412]


def test_a_download_whose_etag_is_known_is_not_sent_again(world: World, tmp_path: Path) -> None:
    put(world, label_bytes(tmp_path))
    answer = world.http.get(URL)
    again = world.http.get(URL, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    for known in ("*", f'"other", {answer.headers["ETag"]}', "W/" + answer.headers["ETag"]):
        assert world.http.get(URL, headers={"If-None-Match": known}).status_code == 304
    assert world.http.get(URL, headers={"If-None-Match": '"other"'}).status_code == 200


def test_an_edit_by_another_program_is_a_revision_before_it_is_replaced(world: World, tmp_path: Path) -> None:
    put(world, label_bytes(tmp_path))
    shown = world.roots.studies / "labels/final/ct_1.nii.gz"
    edited = nifti(tmp_path / "e.nii.gz", np.ones(SHAPE, np.uint8)).read_bytes()
    shown.write_bytes(edited)
    assert world.http.get(URL).content == edited
    shown.write_bytes(label_bytes(tmp_path, value=1) + b"")
    put(world, nifti(tmp_path / "n.nii.gz", np.zeros(SHAPE, np.uint8)).read_bytes())
    sources = [r["source"] for r in world.http.get(f"{URL}/revisions").json()["revisions"]]
    assert sources[:2] == ["hand", "outside_edit"]
    assert world.http.get(f"{URL}/revisions/2/file").content == edited


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/images/none/labels/final"),
        ("GET", "/api/v1/images/none/labels/final/revisions"),
        ("GET", "/api/v1/images/ct_1/labels/final"),
        ("GET", f"{URL}/revisions/9"),
        ("GET", f"{URL}/revisions/9/file"),
        ("POST", f"{URL}/revisions/9/restore"),
        ("GET", f"{URL}/diff"),
        ("GET", f"{URL}/diff?from=1&to=2"),
    ],
)
def test_what_is_not_there_is_404_with_a_problem(world: World, method: str, path: str) -> None:
    answer = world.http.request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


def test_ids_with_folders_have_a_history_too(world: World, tmp_path: Path) -> None:
    nested = world.roots.studies / "case" / "labels"
    nested.mkdir(parents=True)
    nifti(nested / "ct.nii.gz")
    world.store.refresh()
    url = "/api/v1/images/case/labels/ct/labels/final"
    assert world.http.put(url, files={"label": ("l.nii.gz", label_bytes(tmp_path))}).status_code == 200
    assert world.http.get(f"{url}/revisions/1").json()["image"] == "case/labels/ct"


def bad_label(what: str, folder: Path) -> tuple[str, bytes]:
    good = np.zeros(SHAPE, np.uint8)
    made: Mapping[str, np.ndarray] = {
        "NaN": np.full(SHAPE, np.nan, np.float32),
        "fractions": np.full(SHAPE, 0.5, np.float32),
        "float type": good.astype(np.float64),
        "negative": np.full(SHAPE, -1, np.int16),
    }
    if what in made:
        return "l.nii.gz", nifti(folder / "bad.nii.gz", made[what]).read_bytes()
    if what == "huge":
        header = bytearray(nifti(folder / "huge.nii", good).read_bytes())
        header[42:48] = np.array([30000, 30000, 30000], "<i2").tobytes()
        return "l.nii", bytes(header)
    return {
        "empty": ("l.nii.gz", b""),
        "png named nifti": ("l.nii.gz", b"\x89PNG\r\n\x1a\n" + bytes(100)),
        "nifti named nrrd": ("l.nrrd", nifti(folder / "x.nii", good).read_bytes()),
        "unknown type": ("l.exe", b"MZ"),
    }[what]


BAD = (
    "NaN",
    "fractions",
    "float type",
    "negative",
    "huge",
    "empty",
    "png named nifti",
    "nifti named nrrd",
    "unknown type",
)


@pytest.mark.parametrize("route", [URL, "/datastore/label?image=ct_1"])
@pytest.mark.parametrize("what", BAD)
def test_bad_labels_are_refused_and_change_nothing(what: str, route: str, world: World, tmp_path: Path) -> None:
    put(world, label_bytes(tmp_path))
    before = world.files()
    answer = world.http.put(route, files={"label": bad_label(what, tmp_path)})
    assert answer.status_code == 422, answer.text
    assert world.files() == before
    assert world.spool_is_empty()


@pytest.mark.parametrize("route", ["/api/v1/images/none/labels/final", "/datastore/label?image=none"])
def test_a_label_without_its_image_is_refused(route: str, world: World, tmp_path: Path) -> None:
    before = world.files()
    assert world.http.put(route, files={"label": ("l.nii.gz", label_bytes(tmp_path))}).status_code == 404
    assert world.files() == before


def test_a_store_of_the_apps_own_has_no_history(make_world: Make, world: World) -> None:
    other = make_world(described(local_store=None))
    assert other.http.get(URL).status_code == 501
    assert other.http.get("/api/v1/schema").status_code == 501


def test_what_was_annotated_is_saved_told_and_fetched(world: World, tmp_path: Path) -> None:
    content = label_bytes(tmp_path)
    region = {"kind": "slices", "axis": 2, "slices": [1, 2]}
    sent = {"annotated": json.dumps({"labels": ["liver"], "region": region})}
    params = {"params": json.dumps({"label_info": [{"name": "liver", "idx": 1}]})}
    told = world.http.put(URL, files={"label": ("l.nii.gz", content)}, data={**sent, **params})
    assert told.status_code == 200
    assert told.json()["annotated"] == {"labels": ["liver"], "region": region}
    assert world.http.get(f"{URL}/revisions/1").json()["annotated"] == told.json()["annotated"]
    mask = voxels_of(world.http.get(f"{URL}?annotated=mask"), tmp_path)
    assert mask.sum() == 2 * SHAPE[0] * SHAPE[1]
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[0, 0, 0] = drawn[3, 2, 1] = 1
    file = nifti(tmp_path / "mask.nii.gz", drawn).read_bytes()
    both = {"label": ("l.nii.gz", content), "annotated_mask": ("mask.nii.gz", file)}
    second = world.http.put(URL, files=both, data=params).json()
    assert second["annotated"]["region"]["kind"] == "mask"
    assert np.array_equal(voxels_of(world.http.get(f"{URL}/revisions/2/file?annotated=mask"), tmp_path), drawn)
    diff = world.http.get(f"{URL}/diff").json()
    assert (diff["compared_voxels"], diff["not_compared"]) == (1, ["spleen"])
    assert world.spool_is_empty()


def test_a_255_means_not_annotated_on_the_new_route_alone(world: World, tmp_path: Path) -> None:
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[2, 2, 2], voxels[..., 0] = 1, 255
    content = nifti(tmp_path / "l.nii.gz", voxels).read_bytes()
    region = world.http.put(URL, files={"label": ("l.nii.gz", content)}).json()["annotated"]["region"]
    assert region == {"kind": "slices", "axis": 2, "slices": [1, 2, 3]}
    assert world.http.put("/datastore/label?image=ct_1", files={"label": ("l.nii.gz", content)}).status_code == 200
    newest = world.http.get(f"{URL}/revisions").json()["revisions"][-1]
    assert newest["annotated"] == {"labels": None, "region": {"kind": "whole"}}


@pytest.mark.parametrize(
    "annotated",
    [
        "[]",
        '{"labels": []}',
        '{"slices": [1]}',
        '{"region": {"kind": "moon"}}',
        '{"region": {"kind": "slices", "axis": 3, "slices": [0]}}',
        '{"region": {"kind": "slices", "axis": 0, "slices": [true]}}',
        '{"region": {"kind": "boxes", "boxes": [[[0, 0, 0]]]}}',
        '{"region": {"kind": "boxes", "boxes": [[[0, 0, 0], [99, 1, 1]]]}}',
        '{"region": {"kind": "mask", "sha256": "x", "voxels": 1}}',
    ],
)
def test_a_region_that_makes_no_sense_is_refused_and_changes_nothing(
    annotated: str, world: World, tmp_path: Path
) -> None:
    before = world.files()
    answer = world.http.put(URL, files={"label": ("l.nii.gz", label_bytes(tmp_path))}, data={"annotated": annotated})
    assert answer.status_code == 422
    assert world.files() == before


def declaring(shape: tuple[int, int, int], *, deflated: bool) -> bytes:
    """A NIfTI header for so many voxels of 2 bytes, and hardly any behind it."""
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.int16)
    header.set_sform(AFFINE, 1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    raw = header.binaryblock + b"\0" * 10_000_000
    return gzip.compress(raw, 1) if deflated else raw


def typed(value: float, dtype: type) -> np.ndarray:
    voxels = np.zeros(SHAPE, dtype)
    voxels[1, 1, 1] = value
    return voxels


BAD_VOXELS = {
    "NaN": typed(np.nan, np.float32),
    "infinite": typed(np.inf, np.float64),
    "fractions": typed(0.5, np.float32),
    "whole numbers as floats": typed(1, np.float32),
    "negative": typed(-1, np.int8),
    "negative 32 bit": typed(-(2**30), np.int32),
    "too large": typed(70_000, np.int32),
}
BAD_BYTES = {
    "huge": ("l.nii", declaring((30_000, 30_000, 30_000), deflated=False)),
    "huge and deflated": ("l.nii.gz", declaring((30_000, 30_000, 30_000), deflated=True)),
    "as much as deflate could hold": ("l.nii.gz", declaring((20_000, 1000, 20), deflated=True)),
    "another type": ("l.nrrd", gzip.compress(b"no NRRD")),
    "a picture": ("l.nii.gz", b"\x89PNG\r\n\x1a\n" + b"\0" * 500),
    "empty": ("l.nii.gz", b""),
}


@pytest.mark.parametrize("route", [URL, "/datastore/label?image=ct_1"])
@pytest.mark.parametrize("kind", [*BAD_VOXELS, *BAD_BYTES])
def test_what_is_no_label_is_refused_and_changes_nothing(kind: str, route: str, world: World, tmp_path: Path) -> None:
    put(world, label_bytes(tmp_path))
    if kind in BAD_VOXELS:
        name, content = "l.nii.gz", nifti(tmp_path / "bad.nii.gz", BAD_VOXELS[kind]).read_bytes()
    else:
        name, content = BAD_BYTES[kind]
    before, schema = world.files(), world.http.get("/api/v1/schema").json()
    tracemalloc.start()
    answer = world.http.put(route, files={"label": (name, content)})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert answer.status_code == 422, answer.text
    assert peak < 64 << 20, "nothing is allocated for what a header claims"
    assert world.files() == before
    assert world.http.get("/api/v1/schema").json() == schema
    assert world.spool_is_empty()
    assert len(world.http.get(f"{URL}/revisions").json()["revisions"]) == 1
