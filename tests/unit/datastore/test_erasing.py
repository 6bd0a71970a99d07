"""Erasing leaves nothing of an image: no byte of its id, its voxels or its infos anywhere below the studies."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from labelserver.datastore.local import LocalDatastore
from labelserver.domain.errors import ImageNotFound, InvalidSetting
from labelserver.domain.ids import FINAL, ImageId, folder_key
from labelserver.domain.labels import Provenance
from tests.support.study_folder import put_image, put_label, put_series

OpenStore = Callable[..., LocalDatastore]
#: Not found by chance in other bytes.
NAME = "meier_hans_1950"
OTHER = ImageId("other")


@pytest.fixture
def store(studies: Path, open_store: OpenStore, tmp_path: Path) -> LocalDatastore:
    put_image(studies, f"{NAME}.nii.gz")
    put_image(studies, "other.nii.gz")
    document = {"objects": {NAME: {"image": {"ext": ".nii.gz", "info": {}}, "labels": {}}, "other": {"image": {}}}}
    (studies / "datastore_v2.json").write_text(json.dumps(document))
    store = open_store()
    for image_id, value in ((NAME, 1), (NAME, 2), ("other", 3)):
        label = put_label(tmp_path / "l.nii.gz", value)
        store.accept_label(ImageId(image_id), label, ".nii.gz", FINAL, Provenance("Ada"), {"note": f"of {image_id}"})
    store.update_image_info(NAME, {"dice": 0.5, "note": NAME})
    store.upkeep.backup()
    for part in ("drafts", "cache/dicom"):
        place = store.layout.state / part / folder_key(NAME)
        place.mkdir(parents=True)
        (place / "x.nii.gz").write_bytes(b"pixels")
    return store


def traces(folder: Path, word: str) -> list[str]:
    """Files below `folder` whose path or content holds `word` (a slug in folder names counts)."""
    slug = folder_key(word)
    return [
        str(p)
        for p in folder.rglob("*")
        if word in p.name or slug in str(p) or (p.is_file() and word.encode() in p.read_bytes())
    ]


def test_nothing_of_an_erased_image_is_left(store: LocalDatastore, studies: Path, open_store: OpenStore) -> None:
    assert traces(studies, NAME)
    plan = store.upkeep.plan_erasure(NAME)
    assert plan.images == (NAME,)
    assert traces(studies, NAME), "a plan changes nothing"
    store.upkeep.erase(plan, "Dee")
    assert traces(studies, NAME) == []
    assert store.list_images() == ["other"]
    again = open_store()
    assert again.list_images() == ["other"]
    assert again.current_revision(OTHER, FINAL).number == 1
    assert traces(studies, NAME) == []


def test_the_chain_keeps_the_hashes_alone_and_still_holds(store: LocalDatastore) -> None:
    head = store.upkeep.verify().head
    store.upkeep.erase(store.upkeep.plan_erasure(NAME), "Dee")
    checked = store.upkeep.verify(head)
    assert checked.findings == []
    log = store.audit_log(100)
    assert [(e.act.action, e.act.image_id, e.act.person) for e in log] == [
        ("erased", "", ""),
        ("erased", "", ""),
        ("save", "other", "Ada"),
        ("erase", "", "Dee"),
    ]
    assert log[-1].act.detail["entries"] == [1, 2]


def test_a_removed_image_can_still_be_erased(store: LocalDatastore, studies: Path) -> None:
    store.remove_image(NAME)
    assert traces(studies, NAME)
    store.upkeep.erase(store.upkeep.plan_erasure(NAME), "Dee")
    assert traces(studies, NAME) == []


def test_an_erasure_that_was_cut_off_is_asked_for_again(
    store: LocalDatastore, studies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("labelserver.datastore.audit.blank", lambda *_: (_ for _ in ()).throw(OSError("cut")))
        with pytest.raises(OSError, match="cut"):
            store.upkeep.erase(store.upkeep.plan_erasure(NAME), "Dee")
    store.refresh()
    store.upkeep.erase(store.upkeep.plan_erasure(NAME), "Dee")
    assert traces(studies, NAME) == []


def test_an_index_made_again_after_an_erasure_knows_nothing_of_it(
    store: LocalDatastore, studies: Path, open_store: OpenStore
) -> None:
    store.upkeep.erase(store.upkeep.plan_erasure(NAME), "Dee")
    store.close()
    store.layout.index_file.unlink()
    again = open_store()
    assert again.list_images() == ["other"]
    assert again.upkeep.verify().findings == []
    assert traces(studies, NAME) == []


@pytest.mark.parametrize("who", ["sub-01", "P-77", "P-99"])
def test_a_patient_is_a_folder_or_an_id_in_info_or_header(who: str, studies: Path, open_store: OpenStore) -> None:
    put_image(studies, "sub-01/t1.nii.gz")
    put_image(studies, "sub-01/t2.nii.gz")
    put_image(studies, "sub-010.nii.gz")
    put_image(studies, "x.nii.gz")
    put_series(studies / "ct", "1.2.3", PatientID="P-99")
    store = open_store()
    store.update_image_info("x", {"PatientID": "P-77"})
    expected = {"sub-01": ("sub-01/t1", "sub-01/t2"), "P-77": ("x",), "P-99": ("ct",)}
    assert store.upkeep.plan_erasure(who).images == expected[who]
    store.remove_image(expected[who][0])
    assert store.upkeep.plan_erasure(who).images == expected[who]
    store.upkeep.erase(store.upkeep.plan_erasure(who), "")
    assert not set(expected[who]) & set(store.list_images())


def test_who_is_not_there_is_told(store: LocalDatastore) -> None:
    with pytest.raises(ImageNotFound, match="no patient"):
        store.upkeep.plan_erasure("nobody")


def test_pixels_in_read_only_studies_are_not_passed_over_in_silence(
    studies: Path, tmp_path: Path, open_store: OpenStore
) -> None:
    put_image(studies, "a.nii.gz")
    store = open_store(read_only=True, state_dir=tmp_path / "state" / ".labelserver")
    with pytest.raises(InvalidSetting, match="yourself"):
        store.upkeep.erase(store.upkeep.plan_erasure("a"), "")
    assert (studies / "a.nii.gz").is_file()


def test_copies_elsewhere_go_too(store: LocalDatastore, studies: Path, tmp_path: Path) -> None:
    state, app, uploads = store.layout.state, tmp_path / "app", tmp_path / "uploads"
    pixels = (studies / f"{NAME}.nii.gz").read_bytes()
    old = time.time() - 86400
    gone = {
        uploads / "11111111/content/0.nii.gz": pixels,
        state / "sessions/s1/session.json": json.dumps({"what": {"image": NAME}}).encode(),
        state / "sessions/s2/session.json": b"{",
        state / "spool/label-1.nii.gz": b"left by a crash",
        state / "cache/cases/0123abcd": b"named by content",
        app / "model/seg/run/cache_20260101/slice.npy": b"cut",
        app / "jobs/j1/tmp/x": b"cut",
        app / f"predictions/{NAME}.nii.gz": b"mask",
        app / f"kept/{folder_key(NAME)}/x": b"mask",
    }
    stays = {
        uploads / "22222222/content/0.nii.gz": b"another",
        state / "sessions/s3/session.json": json.dumps({"image": "other"}).encode(),
        state / "spool/upload-2.nii.gz": b"on its way",
        state / f"cache/dicom/{folder_key('other')}/x.nii.gz": b"of another image",
        app / "versions/m/1/weights.safetensors": b"w",
        app / "lib" / NAME / "code.txt": b"code",
        app / "jobs/j1/spec.json": b"{}",
    }
    for path, data in (gone | stays).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    os.utime(state / "spool/label-1.nii.gz", (old, old))
    store.upkeep.erase(store.upkeep.plan_erasure(NAME, uploads=uploads, app=app), "Dee")
    assert [p for p in gone if p.exists()] == []
    assert [p for p in stays if not p.exists()] == []


def test_entries_about_infos_are_emptied_as_well(store: LocalDatastore) -> None:
    store.note_act("image_info", "Ada", {"keys": ["note"]}, image_id=NAME)
    store.upkeep.erase(store.upkeep.plan_erasure(NAME), "Dee")
    assert store.audit_log(100, NAME) == []
    assert store.upkeep.verify().findings == []
