"""Settings become a wired server: folders, locks, and the store that the app asks for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from labelserver.bootstrap import Server, StoreInUse, build_server
from labelserver.contracts.datastore import Datastore
from labelserver.datastore.local import LocalDatastore
from labelserver.datastore.through_lead import DatastoreThroughLead
from labelserver.domain.errors import FolderInUse, InvalidSetting
from labelserver.domain.paths import Roots
from labelserver.settings import Settings
from tests.fakes.fake_engine import FakeEngine, described

APP = Path(__file__).parents[1] / "apps" / "rest_app"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    shutil.copytree(APP, tmp_path / "app")
    return Settings(app_dir=tmp_path / "app", studies=str(tmp_path / "studies"))


def test_a_server_is_wired_and_its_folders_exist(settings: Settings, tmp_path: Path) -> None:
    server = build_server(settings)
    try:
        assert isinstance(server, Server)
        assert isinstance(server.datastore, LocalDatastore)
        assert server.spool.is_dir()
        assert server.engine.readiness().ready is False
        assert server.engine.description() is None
        for folder in (tmp_path / "studies", tmp_path / "app" / "logs", tmp_path / "app" / "model"):
            assert folder.is_dir()
    finally:
        server.close()


@pytest.mark.parametrize("shared", ["app", "studies"])
def test_a_second_server_on_a_folder_is_refused_and_told_who_has_it(
    settings: Settings, tmp_path: Path, shared: str
) -> None:
    shutil.copytree(APP, tmp_path / "other-app")
    other = {"studies": str(tmp_path / "other")} if shared == "app" else {"app_dir": tmp_path / "other-app"}
    server = build_server(settings)
    with pytest.raises(FolderInUse, match="in use by process"):
        build_server(settings.model_copy(update=other))
    server.close()
    build_server(settings).close()


def test_a_refused_server_gives_back_the_lock_it_had(settings: Settings, tmp_path: Path) -> None:
    server = build_server(settings)
    shutil.copytree(APP, tmp_path / "other-app")
    other = settings.model_copy(update={"app_dir": tmp_path / "other-app"})
    with pytest.raises(FolderInUse):
        build_server(other)
    server.close()
    build_server(other).close()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"studies": ""}, "--studies"),
        ({"studies": "http://pacs.example/dicom-web"}, "not there yet"),
        ({"app_dir": Path("/nonexistent")}, "main.py"),
        ({"host": "0.0.0.0"}, "--behind-proxy"),
    ],
)
def test_settings_that_make_no_sense_stop_before_anything_is_touched(
    settings: Settings, tmp_path: Path, change: dict[str, object], says: str
) -> None:
    with pytest.raises(InvalidSetting, match=says):
        build_server(settings.model_copy(update=change))
    assert not (tmp_path / "studies").exists()


def test_the_store_follows_the_apps_description(tmp_path: Path) -> None:
    engine = FakeEngine(Roots(tmp_path, tmp_path, tmp_path / ".labelserver"))
    opened: list[object] = []

    def reopen(arguments: object) -> Datastore:
        opened.append(arguments)
        return LocalDatastore(tmp_path)

    default = LocalDatastore(tmp_path)
    stores = StoreInUse(engine, default, reopen)
    assert stores.current() is default
    engine.app = described()
    assert stores.current() is default
    engine.app = described(local_store={"labels_dir": "other"})
    other = stores.current()
    assert other is not default
    assert stores.current() is other
    assert opened == [{"labels_dir": "other"}]
    engine.app = described(local_store=None)
    assert isinstance(stores.current(), DatastoreThroughLead)
    engine.app = described()
    assert stores.current() is default


def test_the_servers_modules_never_load_torch() -> None:
    heavy = "('torch', 'monai', 'ignite', 'matplotlib', 'highdicom', 'skimage')"
    code = f"import sys, labelserver.api.application; print([m for m in {heavy} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
