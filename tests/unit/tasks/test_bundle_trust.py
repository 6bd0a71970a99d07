"""A bundle runs only as it was when a person agreed to it. No torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from labelserver.domain.errors import AppLoadFailed, UnreadableFile
from labelserver.tasks.bundle_trust import PINS_FILE, ensure_trusted, trust, what_runs


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "cubes"
    for part in ("configs", "models", "scripts", "docs"):
        (folder / part).mkdir(parents=True)
    config = {
        "device": "$torch.device('cpu')",
        "network_def": {"_target_": "UNet"},
        "optimizer": {"_target_": "torch.optim.Adam"},
        "evil": {"_target_": "subprocess.run", "args": ["true"]},
        "hidden": [{"_target_": "torch.os.system"}, {"_target_": "eval"}, {"_target_": "torch.hub.load"}],
        "other": "%train.json::lr",
    }
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    (folder / "configs" / "train.yaml").write_text("run:\n- $print(1)\n")
    (folder / "scripts" / "own.py").write_text("x = 1\n")
    (folder / "models" / "model.pt").write_bytes(b"weights")
    (folder / "models" / "model.ts").write_bytes(b"program")
    (folder / "docs" / "README.md").write_text("words")
    return folder


def test_all_that_a_bundle_executes_is_listed(bundle: Path) -> None:
    found = {(runs.file, runs.where): runs.what for runs in what_runs(bundle)}
    assert found == {
        ("configs/inference.json", "device"): "$torch.device('cpu')",
        ("configs/inference.json", "evil#_target_"): "subprocess.run",
        ("configs/inference.json", "hidden#0#_target_"): "torch.os.system",
        ("configs/inference.json", "hidden#1#_target_"): "eval",
        ("configs/inference.json", "hidden#2#_target_"): "torch.hub.load",
        ("configs/inference.json", "other"): "%train.json::lr",
        ("configs/train.yaml", "run#0"): "$print(1)",
        ("models/model.ts", ""): "a TorchScript program",
        ("scripts/own.py", ""): "code",
    }


def test_an_unchanged_bundle_passes_and_its_weights_may_change(bundle: Path) -> None:
    trust(bundle)
    (bundle / "models" / "model.pt").write_bytes(b"better weights")
    (bundle / "models" / "model_epoch=3.pt").write_bytes(b"more weights")
    (bundle / "eval").mkdir()
    (bundle / "eval" / "results.json").write_text("{}")
    ensure_trusted(bundle)


@pytest.mark.parametrize("name", ["configs/inference.json", "scripts/own.py", "models/model.ts", "docs/README.md"])
def test_a_changed_file_is_refused(bundle: Path, name: str) -> None:
    trust(bundle)
    (bundle / name).write_bytes(b"x = 2\n")
    with pytest.raises(AppLoadFailed, match=f"{name}.*changed"):
        ensure_trusted(bundle)


def test_new_code_is_refused_and_missing_code_too(bundle: Path) -> None:
    trust(bundle)
    (bundle / "scripts" / "__init__.py").write_text("import os\n")
    with pytest.raises(AppLoadFailed, match=r"scripts/__init__\.py.*new"):
        ensure_trusted(bundle)
    (bundle / "scripts" / "__init__.py").unlink()
    (bundle / "scripts" / "own.py").unlink()
    with pytest.raises(AppLoadFailed, match=r"scripts/own\.py.*missing"):
        ensure_trusted(bundle)


def test_a_bundle_cannot_bring_its_own_trust(bundle: Path) -> None:
    trust(bundle)
    (bundle.parent / PINS_FILE).rename(bundle / PINS_FILE)
    with pytest.raises(AppLoadFailed, match="has not been imported"):
        ensure_trusted(bundle)


def test_a_link_in_a_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.py").write_text("x = 3\n")
    (bundle / "scripts" / "more.py").symlink_to(tmp_path / "outside.py")
    with pytest.raises(UnreadableFile, match="link"):
        trust(bundle)


def test_a_configuration_that_is_none_is_named(bundle: Path) -> None:
    (bundle / "configs" / "train.yaml").write_text("a: [")
    with pytest.raises(UnreadableFile, match=r"train\.yaml"):
        what_runs(bundle)
