"""``/datastore`` and ``/activelearning``: images, labels and the next sample (R-30, R-31, R-35 to R-38, R-40)."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from labelserver.domain.errors import TaskFailed
from labelserver.domain.ids import FINAL, ImageId
from labelserver.imaging.volumes import read_volume
from tests.api.conftest import AFFINE, SHAPE, Make, World, label_bytes, nifti
from tests.fakes.fake_engine import described


def save(world: World, data: bytes, image: str = "ct_1", name: str = "seg.nii.gz", **query: str):
    files = {"label": (name, data)}
    params = {"label_info": [{"name": "liver", "idx": 1}], "client_id": "me"}
    return world.http.put(
        "/datastore/label", params={"image": image, **query}, files=files, data={"params": json.dumps(params)}
    )


def asked_of(world: World) -> list[object]:
    """What was asked of the app, without the look at its weights that every server takes at its start."""
    return [call for call in world.engine.calls if call[0] != "model_file"]


def refused(world: World, answer, before: dict[str, bytes], *statuses: int) -> str:
    """The sentence of a 4xx that changed nothing."""
    assert answer.status_code in (statuses or (422,)), answer.text
    assert world.files() == before
    assert world.spool_is_empty()
    detail = answer.json()["detail"]
    assert isinstance(detail, str)
    assert len(detail) > 20
    return detail


# --- the next sample


def test_r30_r31_the_next_sample_has_a_path_and_a_name_with_extension(world: World) -> None:
    sample = world.http.post("/activelearning/first", content=b'{"client_id": "me"}').json()
    path = world.roots.studies / "ct_1.nii.gz"
    assert (sample["id"], sample["path"], sample["name"]) == ("ct_1", str(path), "ct_1.nii.gz")
    assert sample["checksum"] == "SHA256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def test_r30_a_caller_on_another_machine_gets_the_file_name_alone(make_world: Make) -> None:
    world = make_world(address="10.0.0.9")
    assert world.http.post("/activelearning/first").json()["path"] == "ct_1.nii.gz"
    assert str(world.roots.studies) not in world.http.get("/datastore/image/info?image=ct_1").text


def test_r30_a_caller_behind_a_proxy_is_never_taken_for_local(make_world: Make, world: World) -> None:
    forwarded = {"X-Forwarded-For": "10.0.0.9"}
    assert world.http.post("/activelearning/first", headers=forwarded).json()["path"] == "ct_1.nii.gz"
    other = make_world(behind_proxy=True)
    assert other.http.post("/activelearning/first").json()["path"] == "ct_1.nii.gz"


def test_r30_nothing_left_is_an_empty_object(world: World, tmp_path: Path) -> None:
    for image in ("ct_1", "ct_2"):
        assert save(world, label_bytes(tmp_path), image).status_code == 200
    answer = world.http.post("/activelearning/random")
    assert (answer.status_code, answer.json()) == (200, {})


def test_r40_the_strategy_random_exists_and_remembers_whom_it_served(world: World) -> None:
    sample = world.http.post("/activelearning/random", json={"client_id": "me"}).json()
    info = world.http.get(f"/datastore/image/info?image={sample['id']}").json()
    assert info["strategy"]["random"]["client_id"] == "me"


def test_an_apps_own_strategy_runs_in_the_lead(world: World) -> None:
    world.engine.lead["next_sample"] = lambda params: {"id": "ct_2", "my_score": 0.5}
    sample = world.http.post("/activelearning/own", json={"client_id": "me", "k": 3}).json()
    assert (sample["id"], sample["my_score"], sample["name"]) == ("ct_2", 0.5, "ct_2.nii.gz")
    assert asked_of(world) == [("next_sample", {"request": {"client_id": "me", "k": 3, "strategy": "own"}})]


def test_an_overridden_next_sample_is_asked_even_for_ready_made_strategies(make_world: Make) -> None:
    world = make_world(described(overridden_hooks=frozenset({"next_sample"})))
    world.engine.lead["next_sample"] = lambda params: {}
    assert world.http.post("/activelearning/random").json() == {}
    assert world.engine.calls


# --- images


def test_an_image_comes_and_goes(world: World, tmp_path: Path) -> None:
    data = nifti(tmp_path / "new scan.nii.gz").read_bytes()
    added = world.http.put(
        "/datastore/image", files={"file": ("new scan.nii.gz", data)}, data={"params": '{"client_id": "me", "a": 1}'}
    )
    assert added.json() == {"image": "new scan"}
    info = world.http.get("/datastore/image/info", params={"image": "new scan"}).json()
    assert (info["a"], info["client_id"], info["user"], info["name"]) == (1, "me", "me", "new scan.nii.gz")
    assert isinstance(info["ts"], int)
    assert world.http.delete("/datastore/image", params={"id": "new scan"}).json() == {}
    assert world.http.head("/datastore/image", params={"image": "new scan"}).status_code == 404


def test_the_old_paths_of_images_work(world: World, tmp_path: Path) -> None:
    data = nifti(tmp_path / "a.nii.gz").read_bytes()
    assert world.http.put("/datastore/?image=b", files={"file": ("a.nii.gz", data)}).json() == {"image": "b"}
    assert world.http.delete("/datastore/?id=b").json() == {}


def test_r35_downloads_carry_their_file_name(world: World, tmp_path: Path) -> None:
    answer = world.http.get("/datastore/image?image=ct_1")
    assert answer.headers["content-disposition"] == 'attachment; filename="ct_1.nii.gz"'
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.content == (world.roots.studies / "ct_1.nii.gz").read_bytes()
    assert answer.headers["etag"]
    save(world, label_bytes(tmp_path))
    label = world.http.get("/datastore/label?label=ct_1&tag=final")
    assert label.headers["content-disposition"].endswith('.nii.gz"')


def test_r35_names_beyond_ascii_are_percent_encoded(world: World, tmp_path: Path) -> None:
    data = nifti(tmp_path / "x.nii.gz").read_bytes()
    world.http.put("/datastore/image", params={"image": "Kopf – ü"}, files={"file": ("x.nii.gz", data)})
    header = world.http.get("/datastore/image", params={"image": "Kopf – ü"}).headers["content-disposition"]
    assert header.startswith("attachment; filename*=utf-8''")
    assert unquote(header.partition("''")[2]) == "Kopf – ü.nii.gz"


@pytest.mark.parametrize("algorithm", ["sha256", "sha512", "md5"])
def test_head_compares_check_sums(world: World, algorithm: str) -> None:
    digest = hashlib.new(algorithm, (world.roots.studies / "ct_1.nii.gz").read_bytes()).hexdigest()
    for text in (f"{algorithm.upper()}:{digest}", digest):
        assert world.http.head("/datastore/image", params={"image": "ct_1", "check_sum": text}).status_code == 200
    wrong = "0" * len(digest)
    assert world.http.head("/datastore/image", params={"image": "ct_1", "check_sum": wrong}).status_code == 404
    assert world.http.head("/datastore/image?image=ct_1&check_sum=zz").status_code == 422
    assert world.http.head("/datastore/image?image=ct_1").content == b""


def test_unknown_images_are_404_and_their_info_is_empty(world: World) -> None:
    before = world.files()
    assert "NOT Found" in refused(world, world.http.get("/datastore/image?image=none"), before, 404)
    refused(world, world.http.delete("/datastore/image?id=none"), before, 404)
    refused(world, world.http.put("/datastore/image/info?image=none", data={"info": "{}"}), before, 404)
    assert world.http.get("/datastore/image/info?image=none").json() == {}


def test_image_info_merges_and_answers_null(world: World) -> None:
    for text in ('{"a": 1, "b": 1}', '{"b": 2}'):
        assert world.http.put("/datastore/image/info?image=ct_1", data={"info": text}).content == b"null"
    info = world.http.get("/datastore/image/info?image=ct_1").json()
    assert (info["a"], info["b"]) == (1, 2)
    assert info["user"].startswith("anonymous@")


@pytest.mark.parametrize(
    "image", ["../x", "/etc/x", "a/../../x", "a\\..\\x", ".labelserver/x", "labels/x", "a\x00b", "C:\\x", "x" * 2000]
)
def test_path_tricks_in_an_image_id_change_nothing(world: World, tmp_path: Path, image: str) -> None:
    before = world.files()
    data = nifti(tmp_path / "a.nii.gz").read_bytes()
    outside = set(world.roots.studies.parent.rglob("*"))
    query = {"image": image, "id": image, "label": image}
    refused(world, world.http.put("/datastore/image", params=query, files={"file": ("a.nii.gz", data)}), before)
    refused(world, world.http.put("/datastore/label", params=query, files={"label": ("a.nii.gz", data)}), before)
    refused(world, world.http.get("/datastore/image", params=query), before)
    refused(world, world.http.get("/datastore/label", params=query), before)
    refused(world, world.http.delete("/datastore/image", params=query), before)
    refused(world, world.http.delete("/datastore/label", params=query), before)
    assert set(world.roots.studies.parent.rglob("*")) == outside


@pytest.mark.parametrize("name", ["../../evil.nii.gz", "/etc/cron.d/evil.nii.gz", "..\\..\\evil.nii.gz"])
def test_path_tricks_in_a_file_name_only_give_a_base_name(world: World, tmp_path: Path, name: str) -> None:
    data = nifti(tmp_path / "a.nii.gz").read_bytes()
    answer = world.http.put("/datastore/image", files={"file": (name, data)})
    assert answer.json() == {"image": "evil"}
    assert (world.roots.studies / "evil.nii.gz").is_file()


@pytest.mark.parametrize("tag", ["../../x", "a/b", "..", ".hidden", "a\\b", "x" * 100])
def test_path_tricks_in_a_tag_change_nothing(world: World, tmp_path: Path, tag: str) -> None:
    before = world.files()
    refused(world, save(world, label_bytes(tmp_path), tag=tag), before)
    refused(world, world.http.get("/datastore/label", params={"label": "ct_1", "tag": tag}), before)


@pytest.mark.parametrize("kind", ["noise", "cut", "empty", "type"])
def test_a_broken_image_is_refused(world: World, tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    whole = nifti(tmp_path / "a.nii.gz", rng.integers(0, 9999, (30, 30, 30), dtype=np.int16)).read_bytes()
    data = {"noise": b"\x1f\x8bnoise", "cut": whole[:-500], "empty": b"", "type": whole}[kind]
    name = "a.exe" if kind == "type" else "a.nii.gz"
    before = world.files()
    refused(world, world.http.put("/datastore/image", files={"file": (name, data)}), before)
    assert world.http.get("/info/").json()["datastore"]["total"] == 2


# --- labels


def test_a_label_is_saved_found_and_removed(world: World, tmp_path: Path) -> None:
    data = label_bytes(tmp_path)
    assert save(world, data).json() == {"image": "ct_1", "label": "ct_1"}
    found = world.http.get("/datastore/label?label=ct_1&tag=final").content
    (tmp_path / "got.nii.gz").write_bytes(found)
    volume = read_volume(tmp_path / "got.nii.gz")
    assert volume.grid.shape == SHAPE
    assert np.allclose(volume.grid.affine, AFFINE)
    assert int(np.asarray(volume.voxels).sum()) == 1
    info = world.http.get("/datastore/label/info?label=ct_1&tag=final").json()
    assert info["label_info"] == [{"name": "liver", "idx": 1}]
    assert isinstance(info["ts"], int)
    stats = world.http.get("/datastore/").json()
    assert stats == {"total": 2, "completed": 1, "label_tags": {"final": 1}}
    assert world.http.delete("/datastore/label?id=ct_1&tag=final").json() == {}
    assert world.http.delete("/datastore/label?id=ct_1&tag=final").json() == {}
    assert world.http.head("/datastore/label?image=ct_1&tag=final").status_code == 404


def test_who_saved_a_label_is_kept(world: World, tmp_path: Path) -> None:
    answer = world.http.put(
        "/datastore/label?image=ct_1",
        files={"label": ("a.nii.gz", label_bytes(tmp_path))},
        headers={"X-Labelserver-Person": "Dr. K", "User-Agent": "viewer/1"},
    )
    assert answer.status_code == 200
    revision = world.store.current_revision(ImageId("ct_1"), FINAL)
    assert (revision.provenance.person, revision.provenance.client) == ("Dr. K", "viewer/1")


def test_an_empty_tag_means_final(world: World, tmp_path: Path) -> None:
    assert save(world, label_bytes(tmp_path), tag="").status_code == 200
    assert world.http.head("/datastore/label?label=ct_1&tag=final").status_code == 200


def test_label_and_image_both_name_a_label(world: World, tmp_path: Path) -> None:
    save(world, label_bytes(tmp_path))
    for name in ("label", "image"):
        for call in (world.http.head, world.http.get):
            assert call(f"/datastore/label?{name}=ct_1&tag=final").status_code == 200
        assert world.http.get(f"/datastore/label/info?{name}=ct_1&tag=final").json()["name"]


def test_r36_the_reviewers_update_is_a_merge_that_answers_null(world: World, tmp_path: Path) -> None:
    save(world, label_bytes(tmp_path), tag="version_1")
    meta = {"segmentationMeta": {"status": "approved", "approvedBy": "dr", "level": "easy", "comment": ""}}
    answer = world.http.put("/datastore/updatelabelinfo?label=ct_1&tag=version_1", data={"params": json.dumps(meta)})
    assert (answer.status_code, answer.content) == (200, b"null")
    info = world.http.get("/datastore/?output=all").json()["objects"]["ct_1"]["labels"]["version_1"]["info"]
    assert info["segmentationMeta"]["status"] == "approved"
    assert info["label_info"]
    answer = world.http.put("/datastore/label/info?label=ct_1&tag=version_1", data={"info": '{"x": 1}'})
    assert answer.content == b"null"


def test_r37_the_order_of_label_info_says_what_the_voxels_are_whatever_idx_says(world: World, tmp_path: Path) -> None:
    listed = [{"name": "spleen", "idx": 3}, {"name": "liver", "idx": 2}]
    world.http.put(
        "/datastore/label?image=ct_1",
        files={"label": ("a.nii.gz", label_bytes(tmp_path))},
        data={"params": json.dumps({"label_info": listed})},
    )
    shown = world.http.get("/datastore/label/info?label=ct_1&tag=final").json()["label_info"]
    assert shown == [{"name": "spleen", "idx": 2}, {"name": "liver", "idx": 1}]  # as in /info/ and in the voxels


def test_tags_keep_the_order_in_which_they_were_saved(world: World, tmp_path: Path) -> None:
    for tag in ("original", "final", "version_2", "version_1"):
        save(world, label_bytes(tmp_path), tag=tag)
    labels = world.http.get("/datastore/?output=all").json()["objects"]["ct_1"]["labels"]
    assert list(labels) == ["original", "final", "version_2", "version_1"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_raw_labels_get_the_grid_of_their_image(world: World, tmp_path: Path, dtype: type) -> None:
    voxels = np.zeros(SHAPE, dtype)
    voxels[1, 2, 3] = 1
    assert save(world, voxels.tobytes(order="F"), name="label.bin").status_code == 200
    (tmp_path / "got.nii.gz").write_bytes(world.http.get("/datastore/label?label=ct_1&tag=final").content)
    assert np.array_equal(np.asarray(read_volume(tmp_path / "got.nii.gz").voxels), voxels)
    assert world.spool_is_empty()


@pytest.mark.parametrize("kind", ["shape", "affine", "noise", "cut", "empty", "raw", "type", "image", "info", "part"])
def test_a_bad_label_is_refused(world: World, tmp_path: Path, kind: str) -> None:
    good = label_bytes(tmp_path)
    moved = AFFINE.copy()
    moved[0, 3] = 7
    bad = {
        "shape": label_bytes(tmp_path, shape=(6, 5, 5)),
        "affine": label_bytes(tmp_path, affine=moved),
        "noise": b"\x1f\x8bnoise",
        "cut": good[:-20],
        "empty": b"",
        "raw": b"x" * 11,
    }
    before = world.files()
    names = {"raw": "l.bin", "type": "l.exe"}
    files = {"other" if kind == "part" else "label": (names.get(kind, "l.nii.gz"), bad.get(kind, good))}
    params = {"label_info": "liver"} if kind == "info" else {}
    image = "none" if kind == "image" else "ct_1"
    answer = world.http.put(f"/datastore/label?image={image}", files=files, data={"params": json.dumps(params)})
    refused(world, answer, before, 404 if kind == "image" else 422)
    assert world.http.get("/datastore/").json()["completed"] == 0


@pytest.mark.parametrize("name", [["liver"], {"en": "liver"}, True, 1.5])
def test_a_label_name_that_is_no_text_is_refused(world: World, tmp_path: Path, name: object) -> None:
    before = world.files()
    files = {"label": ("l.nii.gz", label_bytes(tmp_path))}
    params = {"params": json.dumps({"label_info": [{"name": name, "idx": 1}]})}
    answer = world.http.put("/datastore/label?image=ct_1", files=files, data=params)
    assert "must be text" in refused(world, answer, before)


@pytest.mark.parametrize("name", ["my liver.nii.gz", "C:\\masks\\my liver.nii.gz", "/home/ada/my liver.nii.gz"])
def test_a_refusal_speaks_of_the_file_by_its_own_name(world: World, name: str) -> None:
    answer = world.http.put("/datastore/label?image=ct_1", files={"label": (name, b"no mask at all")})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("my liver.nii.gz is not a readable NIfTI file")


def test_unknown_labels_are_404_and_their_info_is_empty(world: World) -> None:
    before = world.files()
    assert "NOT Found" in refused(world, world.http.get("/datastore/label?label=ct_1&tag=final"), before, 404)
    answer = world.http.put("/datastore/label/info?label=ct_1&tag=final", data={"info": "{}"})
    refused(world, answer, before, 404)
    assert world.http.get("/datastore/label/info?label=ct_1&tag=final").json() == {}
    assert world.http.get("/datastore/label/info?label=none&tag=final").json() == {}


@pytest.mark.parametrize("text", ["{", "[]", None])
def test_info_that_is_no_object_is_refused(world: World, text: str | None) -> None:
    before = world.files()
    data = {} if text is None else {"info": text}
    refused(world, world.http.put("/datastore/image/info?image=ct_1", data=data), before)


def test_the_apps_save_hook_adds_to_the_answer(make_world: Make, tmp_path: Path) -> None:
    world = make_world(described(overridden_hooks=frozenset({"on_save_label"})))
    world.engine.lead["on_save_label"] = lambda params: {"quality": params["label_id"]}
    assert save(world, label_bytes(tmp_path)).json() == {"image": "ct_1", "label": "ct_1", "quality": "ct_1"}


def test_a_failing_save_hook_does_not_undo_the_save(make_world: Make, tmp_path: Path) -> None:
    world = make_world(described(overridden_hooks=frozenset({"on_save_label"})))

    def fail(params: object) -> None:
        raise TaskFailed("ValueError in main.py")

    world.engine.lead["on_save_label"] = fail
    answer = save(world, label_bytes(tmp_path))
    assert answer.status_code == 200
    assert "is saved" in answer.json()["hook_problem"]
    assert world.http.head("/datastore/label?label=ct_1&tag=final").status_code == 200


def test_a_save_hook_that_is_not_overridden_is_not_called(world: World, tmp_path: Path) -> None:
    save(world, label_bytes(tmp_path))
    assert not asked_of(world)


# --- the whole store


def test_the_index_has_the_peers_shape(world: World, tmp_path: Path) -> None:
    save(world, label_bytes(tmp_path))
    index = world.http.get("/datastore/?output=all").json()
    assert set(index["objects"]) == {"ct_1", "ct_2"}
    image = index["objects"]["ct_1"]["image"]
    assert (image["ext"], image["info"]["name"]) == (".nii.gz", "ct_1.nii.gz")
    assert index["objects"]["ct_1"]["labels"]["final"]["info"]["client_id"] == "me"
    assert world.http.get("/datastore/?output=none").status_code == 422


def test_the_training_list_has_paths_for_local_callers_alone(make_world: Make, tmp_path: Path) -> None:
    near, far = make_world(), make_world(address="10.0.0.9")
    for world in (near, far):
        save(world, label_bytes(tmp_path))
    (pair,) = near.http.get("/datastore/?output=train").json()
    assert Path(pair["image"]).is_file()
    assert Path(pair["label"]).is_file()
    (pair,) = far.http.get("/datastore/?output=train").json()
    assert pair["image"] == "ct_1.nii.gz"
    assert not pair["label"].startswith("/")


def test_the_data_set_is_a_zip_of_labeled_cases(world: World, tmp_path: Path) -> None:
    assert world.http.get("/datastore/dataset").status_code == 404
    save(world, label_bytes(tmp_path))
    answer = world.http.get("/datastore/dataset?limit_cases=5")
    assert answer.headers["content-disposition"] == 'attachment; filename="dataset.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        names = set(archive.namelist())
    assert "metadata.json" in names
    assert any(name.startswith("image/ct_1") for name in names)
    assert any(name.startswith("label/ct_1") for name in names)
    assert world.http.get("/datastore/dataset?limit_cases=0").status_code == 422


def test_edits_of_infos_are_in_the_audit_log_without_their_values(world: World, tmp_path: Path) -> None:
    who = {"X-Labelserver-Person": "Ada"}
    label = {"label": ("l.nii.gz", label_bytes(tmp_path))}
    assert world.http.put("/datastore/label?image=ct_1", files=label, headers=who).status_code == 200
    for url, name in (("/datastore/image/info?image=ct_1", "info"), ("/datastore/label/info?label=ct_1", "info")):
        sent = {name: json.dumps({"patient": "a secret", "note": 1})}
        assert world.http.put(url, data=sent, headers=who).status_code == 200
    told = [(e.act.action, e.act.person, e.act.image_id, e.act.tag) for e in world.store.audit_log(2)]
    assert told == [("image_info", "Ada", "ct_1", ""), ("label_info", "Ada", "ct_1", "final")]
    assert all(e.act.detail["keys"] == ["note", "patient"] for e in world.store.audit_log(2))


def test_check_sums_and_the_data_set_agree_with_the_label_that_is_sent(world: World, tmp_path: Path) -> None:
    schema = {"labels": [{"name": "spleen", "value": 2}, {"name": "liver", "value": 7}], "mode": "strict"}
    current = world.http.get("/api/v1/schema").json()
    assert world.http.put("/api/v1/schema", json={**schema, "based_on": current["version"]}).status_code == 200
    sent = label_bytes(tmp_path, value=7)
    info = {"params": json.dumps({"label_info": [{"name": "spleen", "idx": 2}, {"name": "liver", "idx": 7}]})}
    url = "/datastore/label?label=ct_1&tag=final"
    saved = world.http.put("/datastore/label?image=ct_1", files={"label": ("l.nii.gz", sent)}, data=info)
    assert saved.status_code == 200
    shown = world.http.get(url).content
    assert shown != sent
    for data, status in ((sent, 200), (shown, 200), (b"other", 404)):
        assert world.http.head(f"{url}&check_sum={hashlib.sha256(data).hexdigest()}").status_code == status
    with zipfile.ZipFile(io.BytesIO(world.http.get("/datastore/dataset").content)) as archive:
        assert archive.read("label/ct_1.nii.gz") == shown
        told = json.loads(archive.read("metadata.json"))["objects"]["ct_1"]["labels"]["final"]["info"]["label_info"]
    assert [(entry["name"], entry["idx"]) for entry in told] == [("spleen", 1), ("liver", 2)]
    assert world.spool_is_empty()
