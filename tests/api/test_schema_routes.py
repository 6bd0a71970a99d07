"""The label schema over HTTP, and what old clients see of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from tests.api.conftest import AFFINE, SHAPE, World, nifti
from tests.api.test_revision_routes import voxels_of

OLD = "/datastore/label?label=ct_1&tag=final"
NEW = "/api/v1/images/ct_1/labels/final"
GAPS = {
    "mode": "strict",
    "labels": [
        {"name": "spleen", "value": 1, "color": [255, 0, 0]},
        {"id": "liver", "name": "liver", "value": 10},
        {"name": "tumour", "value": 234, "term": {"scheme": "SCT", "value": "108369006", "meaning": "Tumor"}},
    ],
}


def blocks(folder: Path, *values: int) -> tuple[str, bytes]:
    voxels = np.zeros(SHAPE, np.uint8)
    for number, value in enumerate(values):
        voxels[number] = value
    return "l.nii.gz", nifti(folder / "l.nii.gz", voxels, AFFINE).read_bytes()


def save(world: World, url: str, file: tuple[str, bytes], **idx: int) -> Any:
    params = {"label_info": [{"name": n, "idx": v} for n, v in idx.items()]} if idx else {}
    return world.http.put(url, files={"label": file}, data={"params": json.dumps(params)})


def test_a_project_without_a_schema_grows_one_from_its_app(world: World) -> None:
    schema = world.http.get("/api/v1/schema").json()
    assert schema["mode"] == "open"
    assert [(entry["id"], entry["value"]) for entry in schema["labels"]] == [("liver", 1), ("spleen", 2)]
    assert world.http.get("/info/").json()["labels"] == ["liver", "spleen"]


def test_a_schema_is_set_and_kept(world: World) -> None:
    kept = world.http.put("/api/v1/schema", json=GAPS, headers={"X-Labelserver-Person": "Ada"}).json()
    assert kept == world.http.get("/api/v1/schema").json()
    assert (kept["mode"], [e["value"] for e in kept["labels"]]) == ("strict", [1, 10, 234])
    assert kept["labels"][2]["term"]["value"] == "108369006"
    assert kept["labels"][0]["color"] == [255, 0, 0]
    stale = world.http.put("/api/v1/schema", json={**GAPS, "based_on": kept["version"] - 1})
    assert stale.status_code == 409


def test_a_schema_that_makes_no_sense_is_refused(world: World) -> None:
    before = world.http.get("/api/v1/schema").json()
    for labels in (
        [{"name": "a", "value": 255}],
        [{"name": "a", "value": 0}],
        [{"name": "a", "value": 70000}],
        [{"name": "a", "value": 1}, {"name": "b", "value": 1}],
        [{"name": "a"}, {"name": "A"}],
        [{"name": "background"}],
        [{"name": "a", "size": 3}],
        [{"name": "a", "color": [1, 2, 300]}],
    ):
        answer = world.http.put("/api/v1/schema", json={"labels": labels})
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert world.http.get("/api/v1/schema").json() == before


def test_r12_old_routes_show_contiguous_ids_and_storage_keeps_the_schemas_values(world: World, tmp_path: Path) -> None:
    world.http.put("/api/v1/schema", json=GAPS)
    assert world.http.get("/info/").json()["labels"][:3] == ["spleen", "liver", "tumour"]
    saved = save(world, "/datastore/label?image=ct_1", blocks(tmp_path, 1, 2, 3), liver=1, tumour=2, spleen=3)
    assert saved.status_code == 200
    assert list(voxels_of(world.http.get(NEW), tmp_path)[:3, 0, 0]) == [10, 234, 1]
    old = world.http.get(OLD)
    assert list(voxels_of(old, tmp_path)[:3, 0, 0]) == [2, 3, 1]
    assert np.allclose(nib.load(tmp_path / "downloaded.nii.gz").affine, AFFINE)
    listed = world.http.get(OLD.replace("/label?", "/label/info?")).json()["label_info"]
    assert {e["name"]: e["idx"] for e in listed} == {"spleen": 1, "liver": 2, "tumour": 3}
    objects = world.http.get("/datastore/?output=all").json()["objects"]
    assert objects["ct_1"]["labels"]["final"]["info"]["label_info"] == listed
    assert world.spool_is_empty()
    again = save(world, "/datastore/label?image=ct_1", ("l.nii.gz", old.content))  # what was downloaded, without names
    assert again.status_code == 200
    assert list(voxels_of(world.http.get(NEW), tmp_path)[:3, 0, 0]) == [10, 234, 1]
    answer = world.http.put(
        "/datastore/label?image=ct_1", files={"label": blocks(tmp_path, 1)}, headers={"If-Match": old.headers["ETag"]}
    )
    assert answer.status_code in (200, 412)


def test_the_etag_of_an_old_download_serves_for_if_match(world: World, tmp_path: Path) -> None:
    world.http.put("/api/v1/schema", json=GAPS)
    save(world, "/datastore/label?image=ct_1", blocks(tmp_path, 1, 2), spleen=1, liver=2)
    etag = world.http.get(OLD).headers["ETag"]
    assert etag != world.http.get(NEW).headers["ETag"]  # other bytes
    url = "/datastore/label?image=ct_1"
    saved = world.http.put(url, files={"label": blocks(tmp_path, 2)}, headers={"If-Match": etag})
    assert saved.status_code == 200
    assert world.http.put(url, files={"label": blocks(tmp_path, 1)}, headers={"If-Match": etag}).status_code == 412


def test_a_model_labels_names_agree_with_its_voxels(world: World, tmp_path: Path) -> None:
    world.http.put("/api/v1/schema", json=GAPS)
    (tmp_path / "m.nii.gz").write_bytes(blocks(tmp_path, 1, 2)[1])
    names = {"tumour": 1, "liver": 2}
    world.store.save_label("ct_1", str(tmp_path / "m.nii.gz"), "original", {"params": {"label_names": names}})
    shown = world.http.get("/datastore/label/info?label=ct_1&tag=original").json()["params"]["label_names"]
    voxels = voxels_of(world.http.get("/datastore/label?label=ct_1&tag=original"), tmp_path)
    assert shown == {"spleen": 1, "liver": 2, "tumour": 3}
    assert list(voxels[:2, 0, 0]) == [shown["tumour"], shown["liver"]]


def test_an_unknown_name_is_refused_with_the_allowed_ones(world: World, tmp_path: Path) -> None:
    world.http.put("/api/v1/schema", json=GAPS)
    before = world.files()
    answer = save(world, NEW, blocks(tmp_path, 1), gallbladder=1)
    assert (answer.status_code, answer.json()["code"]) == (422, "UnknownLabelName")
    assert "spleen, liver, tumour" in answer.json()["detail"]
    old = save(world, "/datastore/label?image=ct_1", blocks(tmp_path, 1), gallbladder=1)
    assert old.status_code == 422
    assert world.files() == before


def test_a_project_whose_values_are_contiguous_sends_files_as_stored(world: World, tmp_path: Path) -> None:
    file = blocks(tmp_path, 1, 2)
    save(world, "/datastore/label?image=ct_1", file, liver=1, spleen=2)
    assert world.http.get(OLD).content == world.http.get(NEW).content == file[1]
