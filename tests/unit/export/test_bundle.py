"""The bundle is what MONAI's own tools ask of one, offline: metadata, shapes, export, properties, run and training."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, ckpt_export, verify_metadata, verify_net_in_out

from labelserver.domain.errors import InvalidParams
from labelserver.domain.models import Decision, ModelVersion, Verdict
from labelserver.export import torchscript
from labelserver.export.bundle import BundleOptions, write_bundle
from labelserver.export.preparing import Prepared
from labelserver.export.selftest import label_map
from labelserver.imaging.volumes import write_volume
from labelserver.phantoms import make_phantom
from tests.unit.export.export_helpers import forgetting_scripts, prepared
from tests.unit.export.test_preparing import scripted, segmentation

SCHEMA = Path(__file__).with_name("metadata_schema.json")
VERSION = ModelVersion(
    model="model",
    number=7,
    created_ts=1_700_000_000.0,
    weights="weights.safetensors",
    sha256="ab" * 32,
    key_metric="dice",
    metrics={"dice": 0.875, "dice/liver": 0.9},
    held_out=("case_9", "case_10"),
    labels={"case_1": "11" * 32, "case_2": "22" * 32},
)
DECISION = Decision(Verdict.PUBLISHED, "Not worse on 2 cases.", 1_700_000_100.0)

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:monai"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Path]:
    folder = tmp_path_factory.mktemp("bundle")
    found, _ = prepared(segmentation, folder, version=VERSION, decision=DECISION, history=(VERSION,))
    return found, write_bundle(found, folder / "organs")


@pytest.fixture
def bundle(whole: tuple[Prepared, Path]) -> Path:
    return whole[1]


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project's folder: two phantoms with their accepted labels."""
    folder = tmp_path_factory.mktemp("studies")
    (folder / "labels" / "final").mkdir(parents=True)
    for number in range(2):
        case = make_phantom(number, spacing_mm=9.0)
        write_volume(folder / f"{case.name}.nii.gz", case.voxels, case.affine, compress=True)
        labels = np.where(case.labels > 2, 0, case.labels).astype(np.uint8)
        write_volume(folder / "labels" / "final" / f"{case.name}.nii.gz", labels, case.affine, compress=True)
    return folder


def config(bundle: Path, name: str) -> str:
    return str(bundle / "configs" / name)


def test_it_has_the_files_that_the_model_zoo_asks_for(bundle: Path) -> None:
    wanted = ["LICENSE", "configs/metadata.json", "configs/inference.json", "configs/train.json"]
    wanted += ["models/model.pt", "models/model.ts", "docs/README.md", "selftest/expected.nii.gz"]
    assert [name for name in wanted if not (bundle / name).is_file()] == []
    metadata = json.loads((bundle / "configs/metadata.json").read_text())
    assert metadata["version"] == "7.0.0"
    assert metadata["version"] in metadata["changelog"]
    assert isinstance(metadata["supported_apps"], dict)


def test_metadata_passes_the_schema(bundle: Path) -> None:
    verify_metadata(meta_file=config(bundle, "metadata.json"), filepath=str(SCHEMA))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_network_takes_and_gives_what_metadata_says(bundle: Path, n: int) -> None:
    files = {"meta_file": config(bundle, "metadata.json"), "config_file": config(bundle, "inference.json")}
    verify_net_in_out(net_id="network_def", n=n, p=1, any=1, **files)


def test_monai_exports_its_checkpoint(bundle: Path, tmp_path: Path) -> None:
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(bundle / "models/model.pt"),
        meta_file=config(bundle, "metadata.json"),
        config_file=config(bundle, "inference.json"),
    )
    window = torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        theirs = torchscript.load(tmp_path / "model.ts")(window)
        assert torch.allclose(theirs, torchscript.load(bundle / "models/model.ts")(window), atol=1e-4)


@pytest.mark.parametrize(("name", "kind"), [("inference", "inference"), ("train", "train")])
def test_no_property_of_the_workflow_is_missing(
    bundle: Path, studies: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    monkeypatch.chdir(bundle)
    with forgetting_scripts():
        sys.path.insert(0, str(bundle))
        workflow = ConfigWorkflow(
            config_file=f"configs/{name}.json",
            meta_file="configs/metadata.json",
            workflow_type=kind,
            logging_file=False,
            dataset_dir=str(studies),
        )
        workflow.initialize()
        assert workflow.check_properties() == []


def run(bundle: Path, *words: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "monai.bundle", "run", *words]
    done = subprocess.run(command, cwd=bundle, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_it_runs_and_answers_as_the_server(whole: tuple[Prepared, Path], tmp_path: Path) -> None:
    found, bundle = whole
    run(bundle, "--config_file", "configs/inference.json", "--output_dir", str(tmp_path))
    expected = label_map(found.contents.selftest_expected)
    assert np.array_equal(label_map(tmp_path / "input.nii.gz"), expected)
    assert len(np.unique(expected)) > 1


def test_it_trains_on(bundle: Path, studies: Path, tmp_path: Path) -> None:
    before = torch.load(bundle / "models/model.pt", weights_only=True)
    words = ["--config_file", "configs/train.json", "--dataset_dir", str(studies), "--ckpt_dir", str(tmp_path / "new")]
    run(bundle, *words, "--train#trainer#max_epochs", "2", "--learning_rate", "0.01")
    after = torch.load(tmp_path / "new" / "model.pt", weights_only=True)
    assert set(after) == set(before)
    assert any(not torch.equal(after[name], before[name]) for name in before)
    moved = max(float((after[name] - before[name]).abs().max()) for name in before)
    assert moved < 0.5  # it began with the exported weights, not anew


def test_weights_are_the_bare_state_and_hold_no_code(bundle: Path) -> None:
    state = torch.load(bundle / "models/model.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())


def test_the_readme_tells_metrics_and_where_the_labels_came_from(bundle: Path) -> None:
    text = (bundle / "docs/README.md").read_text()
    for words in (
        "| dice/liver | 0.9000 |",
        "on 2 accepted labels",
        "2 held-out images",
        "published, by gate",
        "liver",
    ):
        assert words in text


def test_nothing_in_it_is_a_path_of_this_machine(bundle: Path) -> None:
    texts = [p.read_text() for p in bundle.rglob("*") if p.suffix in (".json", ".py", ".md")]
    assert not [text for text in texts if re.search(r"/(tmp|home|root|work|Users)/", text)]


def test_a_licence_of_ones_own_is_taken(whole: tuple[Prepared, Path], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("Do as you like.\n")
    written = write_bundle(whole[0], tmp_path / "organs", BundleOptions(tmp_path / "mine.txt"))
    assert (written / "LICENSE").read_text() == "Do as you like.\n"
    assert "rights in the weights stay with" in (whole[1] / "LICENSE").read_text()


def test_a_network_of_unknown_origin_makes_no_bundle(tmp_path: Path) -> None:
    found, _ = prepared(scripted, tmp_path)
    with pytest.raises(InvalidParams, match="TorchScript program, without the code"):
        write_bundle(found, tmp_path / "organs")


def json_of(bundle: Path, name: str) -> Any:
    return json.loads((bundle / "configs" / name).read_text())


def test_training_moves_the_label_with_the_image(bundle: Path) -> None:
    steps = {s["_target_"].rpartition(".")[2]: s for s in json_of(bundle, "train.json")["deterministic_transforms"]}
    assert steps["Spacingd"]["keys"] == ["image", "label"]
    assert steps["Spacingd"]["mode"] == ["bilinear", "nearest"]
    assert steps["Orientationd"]["keys"] == ["image", "label"]
    assert steps["ScaleIntensityRanged"]["keys"] == "image"
