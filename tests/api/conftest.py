"""The HTTP door over a real local datastore and a fake engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from labelserver.api.application import create_app
from labelserver.bootstrap import Server, StoreInUse
from labelserver.datastore.local import LocalDatastore
from labelserver.datastore.uploads import UploadStore
from labelserver.domain.app_description import AppDescription
from labelserver.domain.paths import Roots
from labelserver.engine.event_hub import EventHub
from labelserver.model_store.local import LocalModelStore
from labelserver.settings import Settings
from tests.fakes.fake_engine import FakeEngine, described
from tests.support.in_process import InProcess

SHAPE = (6, 5, 4)
AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])


def nifti(path: Path, voxels: np.ndarray | None = None, affine: np.ndarray = AFFINE) -> Path:
    """A small NIfTI file; by default an image with a ramp of values."""
    if voxels is None:
        voxels = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def label_bytes(folder: Path, affine: np.ndarray = AFFINE, shape: tuple[int, ...] = SHAPE, value: int = 1) -> bytes:
    """A label on the images' grid, as .nii.gz."""
    voxels = np.zeros(shape, np.uint8)
    voxels[1, 1, 1] = value
    return nifti(folder / "made-label.nii.gz", voxels, affine).read_bytes()


@dataclass
class World:
    """One server, its fake engine and a client."""

    http: InProcess
    engine: FakeEngine
    server: Server
    roots: Roots

    @property
    def store(self) -> LocalDatastore:
        store = self.server.datastore
        assert isinstance(store, LocalDatastore)
        return store

    def spool_is_empty(self) -> bool:
        return not self.server.spool.exists() or not list(self.server.spool.iterdir())

    def files(self) -> dict[str, bytes]:
        """Every file of the studies folder except the index, by path: what a refused request may not change."""
        return {
            p.relative_to(self.roots.studies).as_posix(): p.read_bytes()
            for p in sorted(self.roots.studies.rglob("*"))
            if p.is_file() and ".sqlite" not in p.name and not p.name.startswith(".lock")
        }


Make = Callable[..., World]


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[Make]:
    """Build a world; keyword arguments are settings, `app` the description, `address` the caller's."""
    opened: list[InProcess] = []

    def make(
        app: AppDescription | None = None, *, described_yet: bool = True, address: str = "127.0.0.1", **settings: object
    ) -> World:
        folder = tmp_path / f"world-{len(opened)}"
        studies, app_dir = folder / "studies", folder / "app"
        studies.mkdir(parents=True)
        (app_dir / "logs").mkdir(parents=True)
        (studies / ".labelserver" / "spool").mkdir(parents=True)
        for name in ("ct_1", "ct_2"):
            nifti(studies / f"{name}.nii.gz")
        values = {"app_dir": app_dir, "studies": str(studies), "auto_update_scoring": False, **settings}
        values.setdefault("datastore_auto_reload", False)
        chosen = Settings(**values)  # type: ignore[arg-type]
        roots = Roots(app_dir, studies, chosen.state_dir)
        engine = FakeEngine(roots, (app or described()) if described_yet else None)

        def reopen(arguments: object) -> LocalDatastore:
            assert isinstance(arguments, dict)
            return LocalDatastore(str(studies), state_dir=roots.state, **arguments)

        stores = StoreInUse(engine, reopen({}), reopen)
        uploads = UploadStore(chosen.upload_dir, chosen.session_expiry, chosen.max_upload_bytes)
        server = Server(
            chosen, roots, engine, LocalModelStore(app_dir), uploads, stores, EventHub(app_dir / "events.jsonl")
        )
        http = InProcess(create_app(server), address=address)
        opened.append(http)
        http.__enter__()
        assert server.datastore  # the first look lets the schema know the app's labels
        return World(http, engine, server, roots)

    yield make
    for http in opened:
        http.__exit__()


@pytest.fixture
def world(make_world: Make) -> World:
    return make_world()
