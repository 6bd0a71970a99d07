"""A MONAI bundle trains as its own configuration says, and its result becomes a candidate, never the weights in use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import UNet

from labelserver.contracts.model_store import writing_to
from labelserver.contracts.progress import Silent, watched_by
from labelserver.domain.errors import AppLoadFailed, LabelNotFound, NotThereYet
from labelserver.domain.json_types import JsonObject
from labelserver.model_store.local import LocalModelStore
from labelserver.tasks.bundle_train import BundleConstants, BundleTrainTask
from labelserver.tasks.bundle_trust import trust
from labelserver.tasks.network_cache import read_state
from tests.unit.tasks.training_fakes import CaseStore, make_store

TRANSFORMS = [
    {"_target_": "LoadImaged", "keys": ["image", "label"]},
    {"_target_": "EnsureChannelFirstd", "keys": ["image", "label"]},
    {"_target_": "ScaleIntensityd", "keys": "image"},
]
POST = {
    "_target_": "Compose",
    "transforms": [
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True, "to_onehot": 2},
        {"_target_": "AsDiscreted", "keys": "label", "to_onehot": 2},
    ],
}
TRAIN: dict[str, Any] = {
    "imports": ["$import scripts.marks"],
    "bundle_root": "/nowhere",
    "ckpt_dir": "$@bundle_root + '/models'",
    "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "displayable_configs": {"lr": 0.01},
    "network_def": {
        "_target_": "UNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 2,
        "channels": [4, 8],
        "strides": [2],
    },
    "network": "$@network_def.to(@device)",
    "optimizer": {
        "_target_": "torch.optim.Adam",
        "params": "$@network.parameters()",
        "lr": "@displayable_configs#lr",
    },
    "train": {
        "dataset": {"_target_": "Dataset", "data": [], "transform": {"_target_": "Compose", "transforms": TRANSFORMS}},
        "dataloader": {"_target_": "DataLoader", "dataset": "@train#dataset", "batch_size": 2},
        "handlers": [
            {"_target_": "ValidationHandler", "validator": "@validate#evaluator", "interval": 1},
        ],
        "trainer": {
            "_target_": "SupervisedTrainer",
            "max_epochs": 99,
            "device": "@device",
            "train_data_loader": "@train#dataloader",
            "network": "@network",
            "loss_function": {"_target_": "DiceCELoss", "to_onehot_y": True, "softmax": True},
            "optimizer": "@optimizer",
            "train_handlers": "@train#handlers",
        },
    },
    "validate": {
        "dataset": {"_target_": "Dataset", "data": [], "transform": {"_target_": "Compose", "transforms": TRANSFORMS}},
        "dataloader": {"_target_": "DataLoader", "dataset": "@validate#dataset"},
        "handlers": [
            {
                "_target_": "CheckpointSaver",
                "save_dir": "@ckpt_dir",
                "save_dict": {"model": "@network"},
                "save_key_metric": True,
                "key_metric_filename": "model.pt",
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@validate#dataloader",
            "network": "@network",
            "postprocessing": POST,
            "key_val_metric": {
                "val_mean_dice": {
                    "_target_": "MeanDice",
                    "include_background": False,
                    "output_transform": "$monai.handlers.from_engine(['pred', 'label'])",
                }
            },
            "val_handlers": "@validate#handlers",
        },
    },
    "run": ["$@train#trainer.run()"],
}


class Watcher(Silent):
    """Remembers what a run says, and may ask it to stop."""

    def __init__(self, folder: Path, *, stop: bool = False) -> None:
        self.folder, self.job_id = folder, "j"
        self.reports: list[JsonObject] = []
        self.versions: list[int] = []
        self._stop = stop

    def report(self, data: JsonObject) -> None:
        self.reports.append(data)

    def version_ready(self, model: str, number: int) -> None:
        self.versions.append(number)

    def should_stop(self) -> bool:
        return self._stop


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "app" / "model" / "cubes", TRAIN)


def make_bundle(folder: Path, train: dict[str, Any]) -> Path:
    for part in ("configs", "models", "scripts"):
        (folder / part).mkdir(parents=True)
    (folder / "configs" / "train.json").write_text(json.dumps(train))
    (folder / "configs" / "metadata.json").write_text(json.dumps({"version": "0.1.2", "description": "Finds cubes"}))
    (folder / "configs" / "logging.conf").write_text("[loggers]\nkeys=root\nclass=__import__('os').abort()\n")
    (folder / "scripts" / "__init__.py").touch()
    (folder / "scripts" / "marks.py").write_text("READ = True\n")
    torch.manual_seed(0)
    torch.save(UNet(3, 1, 2, (4, 8), (2,)).state_dict(), folder / "models" / "model.pt")
    trust(folder)
    return folder


def train(
    bundle: Path, store: CaseStore, watcher: Watcher, **request: Any
) -> tuple[dict[str, Any], LocalModelStore, BundleTrainTask]:
    task = BundleTrainTask(str(bundle), {})
    versions = LocalModelStore(bundle.parent.parent)
    with watched_by(watcher), writing_to(versions):
        result = task({"model": "cubes", "max_epochs": 2, "device": "cpu", **request}, store)  # type: ignore[arg-type]
    return result, versions, task


def test_a_bundle_trains_on_accepted_labels_and_leaves_a_measured_candidate(bundle: Path, tmp_path: Path) -> None:
    before = (bundle / "models" / "model.pt").read_bytes()
    watcher = Watcher(tmp_path)
    result, versions, task = train(bundle, make_store(tmp_path / "studies", 4), watcher)
    version = versions.version("cubes", 1)
    assert result["model_version"] == 1
    assert watcher.versions == [1]
    assert set(result["metrics"]) == {"val_mean_dice"} == set(result["in_use_before"])
    assert version.key_metric == "val_mean_dice"
    assert [report["epoch"] for report in watcher.reports if "metrics" in report] == [1, 2]
    assert (bundle / "models" / "model.pt").read_bytes() == before
    published, trained = read_state(bundle / "models" / "model.pt"), read_state(versions.weights_file("cubes", 1))
    assert published.keys() == trained.keys()
    assert any(not torch.equal(published[name], trained[name]) for name in trained)
    assert (task.info()["version"], task.info()["description"]) == ("0.1.2", "Finds cubes")


def test_the_best_weights_of_the_bundles_own_saver_are_what_is_kept(tmp_path: Path) -> None:
    """With a learning rate that destroys the network, the first epochs are best; the measured Dice says which."""
    bundle = make_bundle(tmp_path / "app" / "model" / "cubes", TRAIN)
    watcher = Watcher(tmp_path)
    result, _, _ = train(bundle, make_store(tmp_path / "studies", 4), watcher, max_epochs=4, lr=3.0)
    measured = [report["metrics"] for report in watcher.reports if "metrics" in report]
    reached = [float(str(metrics["val_mean_dice"])) for metrics in measured if isinstance(metrics, dict)]
    assert result["metrics"]["val_mean_dice"] == pytest.approx(max(reached), abs=1e-6)


def test_a_bundle_that_saves_over_its_own_weights_finds_them_put_back(tmp_path: Path) -> None:
    stubborn = json.loads(json.dumps(TRAIN))
    del stubborn["ckpt_dir"]
    stubborn["validate"]["handlers"][0]["save_dir"] = "$@bundle_root + '/models'"
    bundle = make_bundle(tmp_path / "app" / "model" / "cubes", stubborn)
    before = (bundle / "models" / "model.pt").read_bytes()
    result, versions, _ = train(bundle, make_store(tmp_path / "studies", 4), Watcher(tmp_path))
    assert (bundle / "models" / "model.pt").read_bytes() == before
    assert versions.weights_file("cubes", result["model_version"]).is_file()


def test_a_stop_ends_the_run_at_a_step_and_publishes_nothing(bundle: Path, tmp_path: Path) -> None:
    result, versions, _ = train(bundle, make_store(tmp_path / "studies", 4), Watcher(tmp_path, stop=True))
    assert result == {"stopped": True, "model": "cubes"}
    assert versions.versions("cubes") == []


def test_without_labels_there_is_nothing_to_train_on(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(LabelNotFound, match="Label an image first"):
        train(bundle, CaseStore(tmp_path, []), Watcher(tmp_path))


def test_several_devices_are_refused_with_a_sentence(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(NotThereYet, match="one device"):
        train(bundle, make_store(tmp_path / "studies", 2), Watcher(tmp_path), force_multi_gpu=True)


def test_a_bundle_that_nobody_agreed_to_is_not_read(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "app" / "model" / "cubes", TRAIN)
    (folder.parent / "trusted_bundles.json").unlink()
    with pytest.raises(AppLoadFailed, match="labelserver import cubes"):
        BundleTrainTask(str(folder), {})


def test_what_apps_override_keeps_its_names(bundle: Path) -> None:
    task = BundleTrainTask(str(bundle), {})
    cases = [{"image": f"/{n}.nii.gz", "label": f"/{n}_l.nii.gz"} for n in range(10)]
    assert task._partition_datalist(cases, {"val_split": -1}) == (cases, None)
    kept, held = task._partition_datalist(cases, {"val_split": 0.3})
    assert held
    assert sorted(map(str, [*kept, *held])) == sorted(map(str, cases))
    loader = task._load_checkpoint(str(bundle / "models" / "model.pt"), True, [])
    assert loader["_target_"] == "CheckpointLoader"
    assert task._load_checkpoint("/nowhere.pt", True, []) is None
    assert task._load_checkpoint(str(bundle / "models" / "model.pt"), True, [{"_target_": "CheckpointLoader"}]) is None


def test_constants_name_the_standard_bundle() -> None:
    const = BundleConstants()
    assert const.configs() == ["train.json", "train.yaml"]
    assert const.key_train_dataset_data() == "train#dataset#data"
    names = [name for name in dir(const) if not name.startswith("_")]
    assert all(isinstance(getattr(const, name)(), str | list) for name in names)
