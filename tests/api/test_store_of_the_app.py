"""An app that brought its own datastore: the same routes, served through the lead worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labelserver.contracts.datastore import Datastore
from labelserver.datastore.through_lead import DatastoreThroughLead
from labelserver.domain.errors import ImageNotFound
from tests.api.conftest import Make, World, label_bytes, nifti
from tests.fakes.fake_engine import described


class Remote:
    """What the lead answers: a tiny store, called by name and position."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.infos: dict[str, dict[str, Any]] = {"r1": {"name": "r1.nii.gz"}}
        self.calls: list[str] = []
        nifti(folder / "r1.nii.gz")

    def answer(self, method: str, args: list[Any]) -> Any:
        self.calls.append(method)
        match method:
            case "get_image_uri":
                path = self.folder / f"{args[0]}.nii.gz"
                return str(path) if path.is_file() else ""
            case "get_image_info":
                return self.infos.get(args[0], {})
            case "get_label_uri":
                path = self.folder / f"{args[0]}.{args[1]}.nii.gz"
                return str(path) if path.is_file() else ""
            case "save_label":
                (self.folder / f"{args[0]}.{args[2]}.nii.gz").write_bytes(Path(args[1]).read_bytes())
                return args[0]
            case "update_image_info":
                if args[0] not in self.infos:
                    raise ImageNotFound(f"There is no image {args[0]!r}.")
                self.infos[args[0]].update(args[1])
                return None
            case "add_image":
                (self.folder / f"{args[0]}.nii.gz").write_bytes(Path(args[1]).read_bytes())
                self.infos[args[0]] = args[2]
                return args[0]
            case "status":
                return {"total": 1, "completed": 0}
            case "json":
                return {"objects": {"r1": {}}}
            case _:
                return None


@pytest.fixture
def world(make_world: Make, tmp_path: Path) -> World:
    world = make_world(described(local_store=None))
    remote = Remote(tmp_path)

    class Lead(dict):
        def __contains__(self, method: object) -> bool:
            return str(method).startswith("datastore.")

        def __getitem__(self, method: str) -> Any:
            return lambda params: remote.answer(method.removeprefix("datastore."), params["args"])

    world.engine.lead = Lead()
    return world


def test_images_and_labels_go_through_the_lead(world: World, tmp_path: Path) -> None:
    assert world.http.get("/datastore/image?image=r1").content == (tmp_path / "r1.nii.gz").read_bytes()
    assert world.http.get("/datastore/image?image=none").status_code == 404
    data = label_bytes(tmp_path)
    assert world.http.put("/datastore/label?image=r1", files={"label": ("a.nii.gz", data)}).status_code == 200
    assert world.http.get("/datastore/label?label=r1&tag=final").content == data
    assert world.http.get("/datastore/?output=all").json() == {"objects": {"r1": {}}}
    added = world.http.put("/datastore/image", files={"file": ("r2.nii.gz", data)}, data={"params": '{"a": 1}'})
    assert added.json() == {"image": "r2"}
    assert world.http.get("/datastore/image/info?image=r2").json()["a"] == 1
    assert world.http.post("/infer/segmentation?image=r2").status_code == 200
    assert world.http.post("/infer/segmentation?image=r9").status_code == 404


def test_errors_of_the_lead_keep_their_meaning(world: World) -> None:
    assert world.http.put("/datastore/image/info?image=r9", data={"info": "{}"}).status_code == 404


def test_every_method_of_the_contract_is_passed_on(world: World) -> None:
    store = world.server.datastore
    assert isinstance(store, DatastoreThroughLead)
    abstract = {name for name in vars(Datastore) if getattr(getattr(Datastore, name), "__isabstractmethod__", False)}
    assert abstract <= set(vars(DatastoreThroughLead))
