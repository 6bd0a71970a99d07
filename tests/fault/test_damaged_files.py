"""Each file that the server keeps, in turn cut, emptied, replaced by noise: it starts, loses no label, and says so."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from labelserver.api.application import create_app
from labelserver.bootstrap import build_server
from labelserver.datastore.local import LocalDatastore
from labelserver.datastore.uploads import UploadStore
from labelserver.domain.ids import FINAL, ImageId
from labelserver.imaging.volumes import read_volume
from labelserver.settings import Settings
from tests.support.in_process import InProcess
from tests.support.study_folder import noise_bytes, put_image, put_label

A, B = ImageId("a"), ImageId("b")

#: Every file of the state folder and of the labels, as `kept` makes them; True: its damage must be told.
FILES = {
    "format.json": True,
    "index.sqlite": True,
    "audit.jsonl": True,
    "project.json": False,
    "split.json": True,
    "sides.jsonl": True,
    "backup/index-0.sqlite": True,
    "revisions/a/final/1.nii.gz": True,
    "revisions/a/final/1.json": True,
    "revisions/a/final/2.nii.gz": True,
    "revisions/a/final/2.json": True,
    "revisions/b/final/1.removed": False,  # that it is there says all
    "trash/c/description": False,  # the image is gone already; restore says so
    "trash/c/image": False,
    "uploads/upload.json": False,  # lent for an hour
    "../labels/final/a.nii.gz": True,
    "../datastore_v2.json": False,  # read once, on the first day
    "../a.nii.gz": True,
    ".lock": False,
    ".lock-owner.json": False,
}


def later(path: Path) -> None:
    """Damage happens some time after the file was made."""
    then = time.time() + 600
    os.utime(path, (then, then))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    later(path)


def empty(path: Path) -> None:
    path.write_bytes(b"")
    later(path)


def noise(path: Path) -> None:
    path.write_bytes(noise_bytes(max(64, path.stat().st_size)))
    later(path)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A studies folder with one of everything."""
    folder = tmp_path_factory.mktemp("template")
    studies = folder / "studies"
    for name in ("a", "b", "c"):
        put_image(studies, f"{name}.nii.gz")
    (studies / "datastore_v2.json").write_text('{"name": "old", "objects": {}}')
    store = LocalDatastore(studies)
    for image_id, value in (("a", 1), ("a", 2), ("b", 3), ("c", 4)):
        store.save_label(image_id, str(put_label(folder / "l.nii.gz", value)), "final", {})
    store.remove_label("b", "final")
    store.remove_image("c")
    store.upkeep.backup()
    state = store.layout.state
    shutil.copyfile(folder / "l.nii.gz", folder / "u.nii.gz")
    UploadStore(state / "uploads", 3600, 2**20).add([(folder / "u.nii.gz", "u.nii.gz")])
    (state / ".lock").write_bytes(b"x" * 10)
    (state / ".lock-owner.json").write_text('{"host": "elsewhere", "pid": 1, "started": 1, "boot": "x"}')
    store.close()
    return studies


def place_of(studies: Path, name: str) -> Path:
    state = studies / ".labelserver"
    patterns = {
        "backup/index-0.sqlite": "backup/index-*.sqlite",
        "trash/c/description": "trash/c-*/*.json",
        "trash/c/image": "trash/c-*/*.nii.gz",
        "uploads/upload.json": "uploads/*/upload.json",
    }
    if name.startswith("revisions/"):
        _, image, rest = name.split("/", 2)
        patterns[name] = f"revisions/{image}-*/{rest}"
    if name in patterns:
        (found,) = state.glob(patterns[name])
        return found
    return (state / name).resolve()


def test_the_table_names_every_file(template: Path) -> None:
    known = {place_of(template, name) for name in FILES}
    lying = {p.resolve() for p in template.rglob("*") if p.is_file() and not {"locks", "schemas"} & set(p.parts)}
    others = lying - known
    assert {p.name for p in others} <= {
        "b.nii.gz",
        "1.nii.gz",
        "1.json",
        "1.removed",
        "000000.nii.gz",
        "index.sqlite-shm",
    }


@pytest.mark.parametrize("damage", [cut, empty, noise])
@pytest.mark.parametrize("name", list(FILES))
def test_a_damaged_file_stops_no_start_costs_no_label_and_is_told(
    name: str, damage: Callable[[Path], None], template: Path, tmp_path: Path
) -> None:
    studies = tmp_path / "studies"
    shutil.copytree(template, studies, symlinks=True)
    place = place_of(studies, name)
    damage(place)
    store = LocalDatastore(studies)
    store.upkeep.look_after()
    expected = ["b"] if name == "../a.nii.gz" else ["a", "b"]
    assert store.list_images() == expected
    assert [r.number for r in store.revisions(A, FINAL)] == [1, 2]
    if "a" in expected:
        assert read_volume(Path(store.get_label_uri("a", "final"))).voxels.max() == 2
    if FILES[name]:
        assert [p for p in store.problems() if place.name.split("-")[0] in p.path], store.problems()
    assert read_volume(store.revision_file(A, FINAL, 2)).voxels.max() == 2
    label = put_label(tmp_path / "new.nii.gz", 7)
    store.save_label("b", str(label), "final", {})
    assert read_volume(Path(store.get_label_uri("b", "final"))).voxels.max() == 7
    store.close()


@pytest.mark.parametrize("name", list(FILES))
def test_a_server_starts_on_noise_and_tells(name: str, template: Path, tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    shutil.copytree(template, studies, symlinks=True)
    noise(place_of(studies, name))
    server = build_server(Settings(studies=str(studies), datastore_auto_reload=False))
    with InProcess(create_app(server)) as http:
        local = server.stores.local
        assert local is not None
        local.upkeep.look_after()
        answer = http.get("/info/")
        assert answer.status_code == 200
        assert bool(answer.json()["problems"]) >= FILES[name]
    server.close()


def test_a_revision_is_healed_from_the_copy_and_a_description_from_the_index(template: Path, tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    shutil.copytree(template, studies, symlinks=True)
    before = {n: place_of(studies, n).read_bytes() for n in ("revisions/a/final/2.nii.gz", "revisions/a/final/2.json")}
    for name in before:
        noise(place_of(studies, name))
    store = LocalDatastore(studies)
    assert len(store.upkeep.look_after()) == 2
    assert {n: place_of(studies, n).read_bytes() for n in before} == before
    assert len(list(store.layout.quarantine.iterdir())) == 2
    assert store.upkeep.verify().findings == []
    assert store.upkeep.look_after() == []
    store.close()
