"""``POST /api/v1/images/<id>/restore`` undoes ``DELETE /datastore/image``, and the log says who did what."""

from __future__ import annotations

from pathlib import Path

from tests.api.conftest import World, label_bytes

PERSON = {"X-Labelserver-Person": "Ada"}


def test_a_removed_image_and_its_label_come_back(world: World, tmp_path: Path) -> None:
    label = label_bytes(tmp_path)
    world.http.put("/datastore/label?image=ct_1", files={"label": ("l.nii.gz", label)}, headers=PERSON)
    image = world.http.get("/datastore/image?image=ct_1").content
    assert world.http.delete("/datastore/image?id=ct_1", headers=PERSON).status_code == 200
    assert world.http.get("/datastore/image?image=ct_1").status_code == 404
    answer = world.http.post("/api/v1/images/ct_1/restore", headers=PERSON)
    assert (answer.status_code, answer.json()) == (200, {"image": "ct_1", "tags": ["final"]})
    assert world.http.get("/datastore/image?image=ct_1").content == image
    assert world.http.get("/datastore/label?label=ct_1&tag=final").content == label
    told = [(e.act.person, e.act.action) for e in world.store.audit_log(10) if e.act.action != "schema"]
    assert told == [
        ("Ada", "save"),
        ("Ada", "withdraw"),
        ("Ada", "remove_image"),
        ("Ada", "restore_image"),
        ("Ada", "return"),
    ]


def test_a_removed_label_is_noted_with_the_person(world: World, tmp_path: Path) -> None:
    world.http.put("/datastore/label?image=ct_1", files={"label": ("l.nii.gz", label_bytes(tmp_path))})
    world.http.delete("/datastore/label?id=ct_1&tag=final", headers=PERSON)
    (entry,) = world.store.audit_log(1)
    assert (entry.act.person, entry.act.action, entry.act.revision) == ("Ada", "withdraw", 1)


def test_an_image_in_a_folder_is_restored_by_its_whole_id(world: World, tmp_path: Path) -> None:
    image = world.http.get("/datastore/image?image=ct_1").content
    world.http.put("/datastore/image?image=a/b", files={"file": ("b.nii.gz", image)})
    world.http.delete("/datastore/image?id=a/b")
    assert world.http.post("/api/v1/images/a/b/restore").json()["image"] == "a/b"


def test_what_cannot_be_restored_is_a_problem_document(world: World) -> None:
    there = world.http.post("/api/v1/images/ct_1/restore")
    assert (there.status_code, there.json()["code"]) == (409, "Conflict")
    unknown = world.http.post("/api/v1/images/nobody/restore")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "ImageNotFound")
    assert unknown.headers["content-type"] == "application/problem+json"
