"""The small adapters behind the peer's import paths: settings, helpers, classes of configs, clicks."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from labelserver import settings as settings_module
from labelserver.compat.config import settings
from labelserver.compat.deepedit.interaction import Interaction
from labelserver.compat.deepedit.transforms import AddClickGuidanced, AddGuidanceSignald
from labelserver.compat.interfaces.exception import ImageNotFoundException, MONAILabelError, MONAILabelException
from labelserver.compat.interfaces.utils.app import app_instance, clear_cache
from labelserver.compat.utils.others import class_utils, generic
from labelserver.compat.utils.others.label_colors import get_color, to_hex, to_rgb
from labelserver.compat.utils.others.planner import HeuristicPlanner
from labelserver.compat.utils.sessions import Sessions
from labelserver.domain.errors import ImageNotFound, InvalidParams, NotThereYet, TaskFailed, error_from_json
from labelserver.settings import Settings
from tests.fakes.memory_datastore import MemoryDatastore


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_module, "_installed", Settings(studies="/s", port=8001))


def test_settings_are_read_and_assigned_by_the_peers_names_at_the_moment_of_use() -> None:
    assert (settings.MONAI_LABEL_STUDIES, settings.MONAI_LABEL_SERVER_PORT) == ("/s", 8001)
    settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD = False
    settings.MONAI_LABEL_DATASTORE_FILE_EXT = ["*.png"]
    assert settings_module.current().datastore_auto_reload is False
    assert settings_module.current().datastore_file_ext == ["*.png"]
    settings_module.install(Settings(studies="/other"))
    assert settings.MONAI_LABEL_STUDIES == "/other"
    assert settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD is True
    settings.MONAI_LABEL_DATASTORE = "cvat"
    settings.MY_OWN = 3
    assert (settings.MONAI_LABEL_DATASTORE, settings.MY_OWN, settings.MONAI_ZOO_SOURCE) == ("cvat", 3, "monaihosting")
    settings.MONAI_LABEL_DATASTORE = ""
    assert isinstance(settings.MONAI_LABEL_APP_DIR, str)
    with pytest.raises(AttributeError, match="no setting NOTHING"):
        _ = settings.NOTHING


def test_helpers(tmp_path: Path) -> None:
    assert [generic.strtobool(v) for v in (None, True, "yes", "on", "False", "0")] == [
        False,
        True,
        True,
        True,
        False,
        False,
    ]
    with pytest.raises(ValueError, match="neither yes nor no"):
        generic.strtobool("perhaps")
    assert generic.file_ext("/a/fizzing.nii.gz") == ".nii.gz"
    assert generic.get_basename_no_ext("/a/fizzing.nii.gz") == "fizzing"
    assert generic.get_basename("/a/b.png") == "b.png"
    assert generic.is_openslide_supported("a.SVS")
    (tmp_path / "f").write_bytes(b"abc")
    assert generic.file_checksum(tmp_path / "f").startswith("SHA256:ba7816bf")
    assert generic.md5_digest("a") == "0cc175b9c0f1b6a831c399e269772661"
    generic.remove_file(str(tmp_path / "f"))
    generic.remove_file(None)
    assert not (tmp_path / "f").exists()
    for part in ("images/a.jpg", "images/b.jpg", "labels/a.png"):
        (tmp_path / part).parent.mkdir(exist_ok=True)
        (tmp_path / part).touch()
    assert [Path(d["image"]).name for d in generic.create_dataset_from_path(str(tmp_path))] == ["a.jpg"]
    generic.download_file("http://nowhere.invalid/x", str(tmp_path / "images" / "a.jpg"))


def test_bundles_are_found_in_the_model_folder_and_not_downloaded(tmp_path: Path) -> None:
    (tmp_path / "model" / "spleen" / "configs").mkdir(parents=True)
    assert generic.get_bundle_models(str(tmp_path), {}) is None
    expected = {"spleen": str(tmp_path / "model" / "spleen")}
    assert generic.get_bundle_models(str(tmp_path), {"models": "spleen"}) == expected
    assert generic.get_bundle_models(str(tmp_path), {"bundles": "all"}, "bundles") == expected
    with pytest.raises(NotThereYet, match=r"monai\.bundle download"):
        generic.get_bundle_models(str(tmp_path), {"models": "spleen,other"})


def test_classes_are_found_by_ancestry_and_built_without_evaluating_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "some_configs"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "one.py").write_text(
        "from labelserver.compat.interfaces.config import TaskConfig\n"
        "class Base(TaskConfig):\n    def trainer(self): return None\n"
        "class One(Base):\n    def infer(self): return 1\n"
        "class Other:\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = class_utils.get_class_names(importlib.import_module("some_configs"), "TaskConfig")
    assert found == ["some_configs.one.One"]
    config = class_utils.init_class_from_exp("some_configs.one.One()")
    assert config.labels is None
    config.init("one", "/m", {"auth_token": ""}, None, extra=1)
    assert (config.name, config.kwargs, config.auth_token(), config.strategy(), config.scoring_method()) == (
        "one",
        {"extra": 1},
        None,
        None,
        None,
    )
    with pytest.raises(ModuleNotFoundError):
        class_utils.init_class_from_exp("__import__('os').getcwd()")
    class_utils.unload_module("some_configs")
    assert "some_configs.one" not in sys.modules


def test_exceptions_of_apps_reach_other_processes_as_ours() -> None:
    error = MONAILabelException(MONAILabelError.INVALID_INPUT, "Give a click.")
    assert (error.error, error.msg) == (MONAILabelError.INVALID_INPUT, "Give a click.")
    for raised, expected in (
        (error, InvalidParams),
        (MONAILabelException(MONAILabelError.APP_ERROR, "x"), TaskFailed),
        (ImageNotFoundException("no a"), ImageNotFound),
    ):
        rebuilt = error_from_json(raised.to_json())
        assert type(rebuilt) is expected
        assert rebuilt.message == raised.msg


def test_colours_are_the_same_in_every_process() -> None:
    assert get_color("Liver", None) == (221, 130, 101)
    assert get_color("thing", {"thing": "#ff8000"}) == (255, 128, 0)
    assert get_color("never heard of", None) == get_color("never heard of", {})
    assert (to_hex((255, 128, 0)), to_rgb([1, 2, 3, 4])) == ("#ff8000", (1, 2, 3))


def test_the_planner_measures_images_of_every_format(tmp_path: Path) -> None:
    store = MemoryDatastore(tmp_path / "store")
    for name, spacing in (("a", 1.0), ("b", 3.0)):
        file = tmp_path / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(np.full((3, 3, 3), 7, np.int16), np.diag([spacing] * 3 + [1])), file)
        store.add_image(name, str(file), {})
    (tmp_path / "c.nii.gz").write_bytes(b"no image")
    store.add_image("c", str(tmp_path / "c.nii.gz"), {})
    planner = HeuristicPlanner()
    planner.run(store)
    assert planner.target_spacing == [2.0, 2.0, 2.0]
    assert (planner.max_pix, planner.mean_pix) == (7.0, 7.0)


def test_sessions_keep_files_under_an_id(tmp_path: Path) -> None:
    sessions = Sessions(str(tmp_path / "sessions"), 100)
    (tmp_path / "image.nii.gz").write_bytes(b"x")
    session_id, document = sessions.add_session(str(tmp_path / "image.nii.gz"))
    assert document["expiry"] == 100
    assert sessions.get_session(session_id).image.read_bytes() == b"x"
    sessions.remove_expired()
    sessions.remove_session(session_id)


def test_app_instance_builds_once(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "studies").mkdir()
    (tmp_path / "app" / "main.py").write_text("from labelserver import LabelApp\nclass A(LabelApp):\n    pass\n")
    first = app_instance(str(tmp_path / "app"), str(tmp_path / "studies"), {})
    assert app_instance(str(tmp_path / "app"), str(tmp_path / "studies"), {}) is first
    clear_cache()
    assert app_instance(str(tmp_path / "app"), str(tmp_path / "studies"), {}) is not first


def test_clicks_become_two_channels_beside_three_intensities() -> None:
    data: dict[Any, Any] = {
        "image": np.zeros((3, 16, 16), np.float32),
        "foreground": [[4, 5], [6, 7]],
        "background": [],
    }
    data = AddClickGuidanced(("foreground", "background"), guidance="guidance")(data)
    assert data["guidance"].tolist() == [[[4, 5], [6, 7]], [[-1, -1], [-1, -1]]]
    data["guidance"] = [[[0, 4, 5]], [[-1, -1, -1]]]
    signal = AddGuidanceSignald(keys="image", guidance="guidance")(data)["image"]
    assert signal.shape == (5, 16, 16)
    assert np.unravel_index(int(np.argmax(signal[3])), (16, 16)) == (4, 5)
    assert not signal[4].any()


def test_without_simulated_clicks_the_click_channels_are_zero() -> None:
    class Engine:
        def _iteration(self, engine: Any, batch: Any) -> Any:
            return batch

    batch = {"image": torch.ones(1, 5, 4, 4)}
    result = Interaction(deepgrow_probability=0.0, transforms=[], train=True)(Engine(), batch)
    assert result["image"][:, :3].all()
    assert not result["image"][:, 3:].any()
