"""While versions are swapped, every answer is exactly one version's, and names it; going back brings the same back."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from labelserver.app.label_app import UNVERSIONED, LabelApp
from labelserver.contracts.model_store import Candidate
from labelserver.domain.models import Verdict
from labelserver.model_store.local import LocalModelStore
from labelserver.tasks.infer import BasicInferTask

SHAPE = (8, 8, 8)


class Constant(torch.nn.Module):
    """Answers its weight for every voxel: which version it is can be read off the mask."""

    def __init__(self) -> None:
        super().__init__()
        self.value = torch.nn.Parameter(torch.zeros(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.value.expand(image.shape)


class Tell(BasicInferTask):
    """Fills the image with the version's number"""

    def pre_transforms(self, data: Any = None) -> list[Any]:
        return []

    def post_transforms(self, data: Any = None) -> list[Any]:
        return []

    def run_pre_transforms(self, data: Any, transforms: Any) -> Any:
        data["image"] = torch.zeros(1, *SHAPE)
        return data


class SwappedApp(LabelApp):
    def __init__(self, folder: Path, studies: Path) -> None:
        self.weights = str(folder / "model" / "tell.pt")
        super().__init__(str(folder), str(studies), {}, name="Swapped", labels=["organ"])

    def init_infers(self) -> dict[str, Any]:
        return {"tell": Tell(path=self.weights, network=Constant(), labels=["organ"], config={"skip_writer": True})}


@pytest.fixture
def app(tmp_path: Path) -> SwappedApp:
    studies = tmp_path / "studies"
    (tmp_path / "app" / "model").mkdir(parents=True)
    studies.mkdir()
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.int16), np.eye(4)), studies / "ct.nii.gz")
    return SwappedApp(tmp_path / "app", studies)


def add(app: SwappedApp, value: float) -> int:
    folder = Path(app.app_dir) / "made"
    folder.mkdir(exist_ok=True)
    network = Constant()
    torch.nn.init.constant_(network.value, value)
    save_file(network.state_dict(), folder / "weights.safetensors")
    torch.save(network.state_dict(), folder / "model.pt")
    files = (folder / "weights.safetensors", folder / "model.pt")
    return LocalModelStore(Path(app.app_dir)).add(Candidate("tell", files, publish_path=Path(app.weights)))


def told(app: SwappedApp) -> tuple[str, set[float]]:
    """The version that an answer names, and the values that it holds."""
    answer = app.infer({"model": "tell", "image": "ct", "device": "cpu"})
    return answer["model_version"], set(answer["params"]["pred"].unique().tolist())


def infer_while_swapping(app: SwappedApp, inferences: int, swaps: int) -> Counter[str]:
    """Several threads ask while versions 1 and 2 take turns. Every answer must be whole and name its version."""
    store = LocalModelStore(Path(app.app_dir))
    for value in (1.0, 2.0):
        add(app, value)
    store.publish("tell", 1, "to begin with")
    counts: Counter[str] = Counter()
    wrong: list[object] = []
    turn = threading.Condition()
    asked = swapped = 0

    def may_ask() -> bool:
        """Inferences run on during a swap, but not so far ahead that none is left for the versions after it."""
        return asked >= inferences or asked < inferences * (swapped + 2) // (swaps + 1)

    def ask() -> None:
        nonlocal asked
        while True:
            with turn:
                turn.wait_for(may_ask)
                if asked >= inferences:
                    return
                asked += 1
                turn.notify_all()
            try:
                version, values = told(app)
            except Exception as error:  # noqa: BLE001  whatever it is, it must not happen
                wrong.append(error)
                continue
            if values != {float(version)}:
                wrong.append((version, values))
            with turn:
                counts[version] += 1

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for swap in range(1, swaps + 1):
        with turn:
            turn.wait_for(lambda: asked >= inferences * swap // (swaps + 1))  # noqa: B023  used at once
        store.publish("tell", 1 + swap % 2, "swap")
        with turn:
            swapped = swap
            turn.notify_all()
    for thread in threads:
        thread.join()
    assert wrong == []
    return counts


def test_each_of_many_inferences_during_swaps_is_one_versions_and_none_fails(app: SwappedApp) -> None:
    counts = infer_while_swapping(app, 120, 6)
    assert counts.total() == 120
    assert set(counts) == {"1", "2"}


@pytest.mark.slow
def test_each_of_1000_inferences_during_20_swaps_is_one_versions_and_none_fails(app: SwappedApp) -> None:
    counts = infer_while_swapping(app, 1000, 20)
    assert counts.total() == 1000
    assert set(counts) == {"1", "2"}


def test_an_inference_under_way_stays_with_its_version(app: SwappedApp) -> None:
    store = LocalModelStore(Path(app.app_dir))
    for value in (1.0, 2.0):
        add(app, value)
    store.publish("tell", 1, "")
    task = app.tasks()["models"]["tell"]
    plain = task.run_pre_transforms

    def swapped_in_between(data: Any, transforms: Any) -> Any:
        store.publish("tell", 2, "while an answer is being made")
        return plain(data, transforms)

    task.run_pre_transforms = swapped_in_between
    assert told(app) == ("1", {1.0})
    assert told(app) == ("2", {2.0})


def test_going_back_brings_back_the_same_bytes_and_the_same_voxels(app: SwappedApp) -> None:
    store = LocalModelStore(Path(app.app_dir))
    first = add(app, 1.0)
    assert store.decide("tell", first).verdict is Verdict.UNCHECKED
    before = (hashlib.sha256(Path(app.weights).read_bytes()).hexdigest(), told(app))
    second = add(app, 2.0)
    store.publish("tell", second, "")
    assert told(app) == ("2", {2.0})
    assert store.roll_back("tell", "") == first
    assert (hashlib.sha256(Path(app.weights).read_bytes()).hexdigest(), told(app)) == before


def test_every_answer_names_its_version_also_without_one(app: SwappedApp) -> None:
    assert told(app) == (UNVERSIONED, {0.0})
    torch.save(Constant().state_dict(), app.weights)
    assert told(app)[0] == UNVERSIONED
