"""The same trainer for pictures and for classes: both learn, and their infer task answers with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet
from PIL import Image

from labelserver.contracts.model_store import writing_to
from labelserver.domain.errors import UnreadableFile
from labelserver.model_store.local import LocalModelStore
from labelserver.tasks.classification import ClassificationInfer, ClassificationTrain, ClassOfLabeld, class_in
from labelserver.tasks.pictures import PictureSegmentationInfer, PictureSegmentationTrain, ToChannelsd
from tests.unit.tasks.training_fakes import CaseStore


class PictureStore(CaseStore):
    """Pictures with labels of another extension beside them."""

    label_ext = ".png"

    def datalist(self) -> list[dict[str, Any]]:
        final = self.folder / "labels" / "final"
        return [{"image": self.get_image_uri(n), "label": str(final / f"{n}{self.label_ext}")} for n in self.names]

    def get_image_uri(self, image_id: str) -> str:
        return str(self.folder / f"{image_id}.png")


class ClassStore(PictureStore):
    label_ext = ".json"


def write_picture(path: Path, bright: tuple[int, int, int, int] | None, seed: int) -> np.ndarray[Any, Any]:
    """A dim colour picture with a bright rectangle (top, left, bottom, right); returns the rectangle's mask."""
    random = np.random.default_rng(seed)
    pixels = random.integers(10, 60, size=(40, 32, 3)).astype(np.uint8)
    mask = np.zeros((40, 32), np.uint8)
    if bright is not None:
        mask[bright[0] : bright[2], bright[1] : bright[3]] = 1
        pixels[mask == 1] += 150
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return mask


def test_a_network_learns_to_segment_pictures_and_answers_with_a_picture(tmp_path: Path) -> None:
    names = [f"tile_{n}" for n in range(5)]
    for n, name in enumerate(names):
        mask = write_picture(tmp_path / f"{name}.png", (4 + n, 3 + n, 20 + n, 18 + n), n)
        (tmp_path / "labels" / "final").mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "labels" / "final" / f"{name}.png")
    torch.manual_seed(0)
    network = UNet(2, 3, 2, (8, 16), (2,))
    published = tmp_path / "app" / "model" / "tiles.pt"
    task = PictureSegmentationTrain(
        published.parent / "tiles",
        network,
        ["spot"],
        roi_size=(16, 16),
        publish_path=str(published),
        load_path=str(published),
    )
    store: Any = PictureStore(tmp_path, names)
    with writing_to(versions := LocalModelStore(tmp_path / "app")):
        task(
            {"model": "tiles", "max_epochs": 4, "steps_per_epoch": 8, "device": "cpu", "seed": 1},
            store,
        )
    versions.decide("tiles", 1)
    infer = PictureSegmentationInfer(str(published), UNet(2, 3, 2, (8, 16), (2,)), ["spot"], roi_size=(16, 16))
    truth = write_picture(tmp_path / "new.png", (10, 8, 30, 24), 99)
    file, answer = infer({"image": str(tmp_path / "new.png"), "device": "cpu"})
    mask = np.asarray(Image.open(file))
    assert mask.shape == truth.shape
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.9
    assert answer["label_names"] == {"spot": 1}
    assert infer.info()["dimension"] == 2


def test_a_network_learns_classes_from_labels_that_name_them(tmp_path: Path) -> None:
    names = [f"frame_{n}" for n in range(8)]
    (tmp_path / "labels" / "final").mkdir(parents=True)
    for n, name in enumerate(names):
        write_picture(tmp_path / f"{name}.png", (5, 5, 30, 25) if n % 2 else None, n)
        said = {"label": "inside" if n % 2 else "outside"}
        (tmp_path / "labels" / "final" / f"{name}.json").write_text(json.dumps(said))
    (tmp_path / "labels" / "final" / "frame_7.json").write_text('{"label": "elsewhere"}')
    torch.manual_seed(0)
    published = tmp_path / "app" / "model" / "inside.pt"
    classes = ["outside", "inside"]
    task = ClassificationTrain(
        published.parent / "inside",
        network(),
        classes,
        spatial_size=(16, 16),
        publish_path=str(published),
        load_path=str(published),
    )
    store: Any = ClassStore(tmp_path, names)
    with writing_to(versions := LocalModelStore(tmp_path / "app")):
        result = task(
            {"model": "inside", "max_epochs": 8, "device": "cpu", "seed": 1, "learning_rate": 0.01},
            store,
        )
    assert [case["image"] for case in result["left_out"]] == ["frame_7"]
    assert "elsewhere" in result["left_out"][0]["reason"]
    assert versions.version("inside", 1).metrics["val_acc"] == 1.0
    versions.decide("inside", 1)
    infer = ClassificationInfer(str(published), network(), classes, spatial_size=(16, 16))
    write_picture(tmp_path / "new.png", (8, 8, 34, 28), 99)
    _, answer = infer({"image": str(tmp_path / "new.png"), "device": "cpu"})
    scores = {entry["label"]: entry["score"] for entry in answer["prediction"]}
    assert scores["inside"] > 0.5 > scores["outside"]


def network() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 5, stride=2),
        torch.nn.ReLU(),
        torch.nn.AdaptiveMaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(32, 2),
    )


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", '{"label": "inside"}', "inside"),
        ("a.json", '{"class": "inside"}', "inside"),
        ("a.json", '"inside"', "inside"),
        ("a.json", '{"prediction": [{"label": "out", "score": 0.2}, {"label": "in", "score": 0.8}]}', "in"),
        ("a.txt", "inside\n", "inside"),
    ],
)
def test_a_class_is_read_however_a_label_says_it(tmp_path: Path, name: str, content: str, expected: str) -> None:
    (tmp_path / name).write_text(content)
    assert class_in(tmp_path / name) == expected


@pytest.mark.parametrize("content", ["", "{}", "[1]", "{", '{"prediction": []}', '{"label": 3}'])
def test_a_label_without_a_class_is_refused_with_an_example(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UnreadableFile):
        ClassOfLabeld("label", ["inside"])({"label": str(tmp_path / "a.json")})


@pytest.mark.parametrize(("given", "wanted", "expected"), [(1, 3, 3), (3, 1, 1), (4, 3, 3), (4, 1, 1), (1, 1, 1)])
def test_channels_fit_the_network(given: int, wanted: int, expected: int) -> None:
    image = torch.ones(given, 4, 5)
    assert ToChannelsd("image", wanted)({"image": image})["image"].shape == (expected, 4, 5)
