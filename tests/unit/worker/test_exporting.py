"""The work of an export job: an archive in the job's folder, nothing else, and an end between two steps when asked."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import UNet

from labelserver.app.label_app import LabelApp
from labelserver.contracts.model_store import Candidate
from labelserver.contracts.progress import Silent, watched_by
from labelserver.domain.errors import InvalidParams, ModelNotFound, TaskNotFound
from labelserver.domain.ids import JobId
from labelserver.domain.jobs import EXPORT_ARCHIVE, JobKind, JobSpec
from labelserver.export import torchscript
from labelserver.model_store.local import LocalModelStore
from labelserver.tasks.segmentation import SegmentationInfer
from labelserver.worker.exporting import export_job


@dataclass
class Watching(Silent):
    """Stops after so many looks."""

    looks: int = 1_000
    lines: list[str] = field(default_factory=list)
    done: list[float] = field(default_factory=list)

    def should_stop(self) -> bool:
        self.looks -= 1
        return self.looks < 0

    def log(self, line: str) -> None:
        self.lines.append(line)

    def report(self, data: Any) -> None:
        self.done.append(data["done"])


def network() -> UNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet(3, 1, 2, (4, 8), (2,))


class Small(LabelApp):
    def init_infers(self) -> dict[str, Any]:
        paths = str(Path(self.app_dir) / "model" / "organ.pt")
        made = network()
        return {"organ": SegmentationInfer(paths, made, ["liver"], spacing_mm=(9, 9, 9), roi_size=(16, 16, 16))}


@pytest.fixture
def load(tmp_path: Path) -> Callable[[], Small]:
    (tmp_path / "app" / "model").mkdir(parents=True)
    (tmp_path / "studies").mkdir()
    return lambda: Small(str(tmp_path / "app"), str(tmp_path / "studies"), {})


@pytest.fixture
def version(tmp_path: Path, load: Callable[[], Small]) -> int:
    """A version whose weights differ from those that lie in the app."""
    published = tmp_path / "app" / "model" / "organ.pt"
    torch.save(network().state_dict(), published)
    other = {name: value + 0.25 for name, value in network().state_dict().items()}
    torch.save(other, tmp_path / "model.pt")
    store = LocalModelStore(tmp_path / "app")
    return store.add(Candidate("organ", (tmp_path / "model.pt",), publish_path=published, metrics={"dice": 0.5}))


def spec(**params: Any) -> JobSpec:
    return JobSpec(JobId("x"), JobKind.EXPORT, str(params.pop("model", "organ")), params, "ada", 0.0)


def test_the_archive_holds_the_versions_own_weights(load: Any, version: int, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    watching = Watching()
    with watched_by(watching):
        result = export_job(load, spec(version=version, format="bundle"), folder)
    assert (result["model"], result["version"], result["formats"]) == ("organ", version, ["bundle"])
    assert [path.name for path in folder.iterdir()] == [EXPORT_ARCHIVE]
    assert result["size_bytes"] == (folder / EXPORT_ARCHIVE).stat().st_size
    assert watching.done == sorted(watching.done)
    assert watching.done[-1] == 1.0
    with zipfile.ZipFile(folder / EXPORT_ARCHIVE) as archive:
        archive.extractall(tmp_path / "out")
    home = tmp_path / "out" / f"organ-{version}"
    state = torch.load(home / "bundle" / "organ" / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(value, network().state_dict()[name] + 0.25) for name, value in state.items())
    program = torchscript.load(home / "torchscript" / "model.ts").state_dict()
    assert all(torch.equal(program[name], value) for name, value in state.items())
    about = json.loads((home / "torchscript" / "about.json").read_text())
    assert about["metrics"] == {"dice": 0.5}


@pytest.mark.parametrize("looks", [0, 1, 3])
def test_it_ends_between_two_steps_and_leaves_nothing(load: Any, version: int, tmp_path: Path, looks: int) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    with watched_by(Watching(looks)):
        assert export_job(load, spec(version=version, format="torchscript"), folder) == {"stopped": True}
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"version": 99, "format": "bundle"}, ModelNotFound),
        ({"version": 1, "format": "tar"}, InvalidParams),
        ({"version": 1, "format": "bundle", "model": "other"}, TaskNotFound),
    ],
)
def test_what_is_not_there_is_an_error_and_leaves_nothing(
    load: Any, version: int, tmp_path: Path, params: dict[str, Any], error: type[Exception]
) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    with pytest.raises(error):
        export_job(load, spec(**params), folder)
    assert list(folder.iterdir()) == []
