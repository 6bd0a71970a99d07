"""What a subclass may leave out: descriptions, initialisers, and the numbers of labels."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from labelserver.domain.errors import DeviceMemoryFull, TaskFailed
from labelserver.tasks import devices
from labelserver.tasks.base import InferType, ScoringMethod, Strategy, TrainTask, listed_labels, numbered_labels
from labelserver.tasks.devices import device_list, device_map, name_to_device
from labelserver.tasks.infer import BasicInferTask


class Bare(Strategy):
    """Chooses nothing

    and says more below.
    """

    def __init__(self) -> None:
        pass  # as some apps do: the base initialiser never runs

    def __call__(self, request: Any, datastore: Any) -> None:
        return None


class Trains(TrainTask):
    def __call__(self, request: Any, datastore: Any) -> dict[str, Any]:
        return {}


class Scores(ScoringMethod):
    def __call__(self, request: Any, datastore: Any) -> None:
        return None


def test_descriptions_default_to_the_docstrings_first_line_or_the_name() -> None:
    assert Bare().info() == {"description": "Chooses nothing"}
    assert Trains().info() == {"description": "Trains", "config": {}}
    assert Trains("Said").description == "Said"
    assert Trains().stats() == {}


def test_a_scoring_method_keeps_the_options_it_was_built_with() -> None:
    scoring = Scores(model="/m.ts", threshold=3)
    assert (scoring.model, scoring.scoring_model_path) == ("/m.ts", "/m.ts")  # type: ignore[attr-defined]
    assert (scoring.threshold, scoring.device, scoring.num_samples) == (3, "cpu", 10)  # type: ignore[attr-defined]


def test_labels_are_kept_as_given_and_numbered_for_clients() -> None:
    assert [listed_labels(v) for v in (None, "a", ["a", "b"], {"a": 3})] == [[], ["a"], ["a", "b"], {"a": 3}]
    assert numbered_labels(["liver", "background", "spleen"]) == {"liver": 1, "background": 0, "spleen": 2}
    assert numbered_labels({"liver": 6}) == {"liver": 6}


def test_types_are_plain_text() -> None:
    assert InferType.DEEPEDIT == "deepedit"
    assert [kind.value for kind in InferType] == [
        "segmentation",
        "annotation",
        "classification",
        "deepgrow",
        "deepedit",
        "scribbles",
        "detection",
        "others",
    ]


@pytest.mark.parametrize(
    ("gpus", "given", "expected"),
    [
        ([], None, "cpu"),
        ([], "cuda:1", "cpu"),
        ([], ["cpu"], "cpu"),
        (["H"], "", "cuda"),
        (["H"], "H", "cuda"),
        (["H"], "cuda:0", "cuda:0"),
        (["H", "H"], ["H:1", "H:0"], "cuda:1"),
        (["H", "H"], "cpu", "cpu"),
    ],
)
def test_names_that_clients_show_become_devices(
    monkeypatch: pytest.MonkeyPatch, gpus: list[str], given: Any, expected: str
) -> None:
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: bool(gpus))
    monkeypatch.setattr(devices.torch.cuda, "device_count", lambda: len(gpus))
    monkeypatch.setattr(devices.torch.cuda, "get_device_name", lambda index: gpus[index])
    assert name_to_device(given) == expected
    assert device_list() == list(device_map()) != []


class Nothing(BasicInferTask):
    def pre_transforms(self, data: Any = None) -> Any:
        return []

    def post_transforms(self, data: Any = None) -> Any:
        return []


class OutOfMemory(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_full_device_is_an_error_of_ours_with_advice() -> None:
    with pytest.raises(DeviceMemoryFull, match="smaller roi_size"):
        Nothing(network=OutOfMemory())({"image": torch.zeros(1, 2, 2)})


def test_a_detector_gets_the_network_and_its_answer_is_merged() -> None:
    class Detector:
        network: Any = None

        def __call__(self, inputs: torch.Tensor, use_inferer: bool) -> Any:
            assert use_inferer
            assert self.network is not None
            return [{"box": torch.zeros(1, 6), "label": torch.zeros(1)}]

    class Detects(Nothing):
        def detector(self, data: Any = None) -> Any:
            return Detector()

    network = torch.nn.Identity()
    _, data = Detects(network=network, type="detection", skip_writer=True)({"image": torch.zeros(1, 2, 2)})
    assert tuple(data["box"].shape) == (1, 6)
    with pytest.raises(TaskFailed, match=r"has no detector\(\)"):
        Nothing(network=network, type="detection")({"image": torch.zeros(1, 2, 2)})
