"""A device that is too small: smaller steps down to the CPU, the step in the answer, the memory back afterwards."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from monai.inferers import SimpleInferer, SlidingWindowInferer

from labelserver.domain.errors import DeviceMemoryFull
from labelserver.tasks.infer import BasicInferTask
from labelserver.tasks.memory_ladder import MemoryStep, attempts
from labelserver.tasks.prepared_images import shared

#: a device beside the CPU that every machine has
SMALL_DEVICE = "cpu:0"


class Capped(torch.nn.Module):
    """Runs out of memory as a device of `room` bytes would: by windows, their sum, and the width of numbers."""

    room = 1 << 40
    held: tuple[weakref.ref[torch.Tensor], ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.unlimited = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        width = 2 if torch.is_autocast_enabled("cpu") else 4
        scratch = x * 1.0
        Capped.held = (*Capped.held, weakref.ref(scratch))
        if not self.unlimited and x.numel() * width + Small.sum_bytes > self.room:
            raise torch.OutOfMemoryError("out of memory")
        return torch.cat([x, -x], dim=1)


class Windows(SlidingWindowInferer):
    """Counts what is summed up on the device."""

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
        Small.sum_bytes = 0 if str(self.device) == "cpu" else inputs.numel() * 4
        return super().__call__(inputs, network, *args, **kwargs)


class Small(BasicInferTask):
    sum_bytes = 0
    batch = 4

    def pre_transforms(self, data: Any = None) -> Any:
        return []

    def post_transforms(self, data: Any = None) -> Any:
        return []

    def inferer(self, data: Any = None) -> Any:
        if data["image"].shape[-1] <= 8:
            return SimpleInferer()
        return Windows((8, 8, 8), self.batch, 0.0)

    def _get_network(self, device: str, data: Any) -> torch.nn.Module | None:
        network = super()._get_network(device, data)
        assert isinstance(network, Capped)
        network.unlimited = device == "cpu" and not (data or {}).get("nowhere")
        return network


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    yield
    Capped.room, Capped.held, Small.sum_bytes = 1 << 40, (), 0


WINDOW = 8**3 * 4
IMAGE = 16**3 * 4


def ask(**options: Any) -> dict[str, Any]:
    request = {"image": torch.rand(1, 16, 16, 16), "device": SMALL_DEVICE, **options}
    return Small(network=Capped())(request)[1]


@pytest.mark.parametrize(
    ("room", "step"),
    [
        (1 << 40, MemoryStep.FULL),
        (IMAGE + 2 * WINDOW, MemoryStep.ONE_WINDOW),
        (IMAGE - 1, MemoryStep.ACCUMULATE_ON_CPU),
        (WINDOW - 1, MemoryStep.HALF_PRECISION),
        (10, MemoryStep.CPU),
    ],
)
def test_each_step_is_taken_when_the_one_before_does_not_fit_and_the_answer_names_it(
    room: int, step: MemoryStep
) -> None:
    image = torch.rand(1, 16, 16, 16)
    expected, _ = Small(network=Capped())({"image": image, "device": SMALL_DEVICE})
    Capped.room = room
    found, answer = Small(network=Capped())({"image": image, "device": SMALL_DEVICE})
    assert answer["memory_step"] == step.value
    assert torch.allclose(torch.as_tensor(found), torch.as_tensor(expected), atol=1e-6)


def test_at_the_last_an_error_with_advice_and_the_next_small_request_succeeds_with_the_memory_back() -> None:
    Capped.room = 600
    task = Small(network=Capped())
    with pytest.raises(DeviceMemoryFull, match="smaller roi_size"):
        task({"image": torch.rand(1, 16, 16, 16), "device": SMALL_DEVICE, "nowhere": True})
    gc.collect()
    assert Capped.held
    assert all(reference() is None for reference in Capped.held)
    assert shared().counters().held == 0
    _, answer = task({"image": torch.rand(1, 4, 4, 4), "device": SMALL_DEVICE})
    assert answer["memory_step"] == "full"


def test_a_full_device_in_a_transform_moves_the_whole_request_to_the_cpu() -> None:
    devices: list[str] = []

    class Heavy(Small):
        def pre_transforms(self, data: Any = None) -> Any:
            def step(data: Any) -> Any:
                devices.append(data["device"])
                if data["device"] != "cpu":
                    raise torch.OutOfMemoryError("out of memory")
                return data

            return [step]

    _, answer = Heavy(network=Capped())({"image": torch.rand(1, 4, 4, 4), "device": SMALL_DEVICE})
    assert devices == [SMALL_DEVICE, "cpu"]
    assert answer["memory_step"] == "cpu"


def test_the_machines_own_memory_counts_and_other_errors_do_not() -> None:
    class Breaks(torch.nn.Module):
        def __init__(self, words: str) -> None:
            super().__init__()
            self.words = words

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError(self.words)

    class Plain(Small):
        _get_network = BasicInferTask._get_network

    request = {"image": torch.rand(1, 4, 4, 4), "device": "cpu"}
    with pytest.raises(DeviceMemoryFull):
        Plain(network=Breaks("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))(request)
    with pytest.raises(RuntimeError, match="shapes"):
        Plain(network=Breaks("shapes do not fit"))(request)


def test_what_would_change_nothing_is_left_out_and_the_apps_inferer_stays_as_it_is() -> None:
    window = SlidingWindowInferer((8, 8, 8), 4)
    assert [a.step for a in attempts(window, "cuda")] == list(MemoryStep)
    assert [a.step for a in attempts(window, "cpu")] == ["full", "one_window", "half_precision"]
    assert [a.step for a in attempts(SimpleInferer(), "cuda")] == ["full", "half_precision", "cpu"]
    assert (window.sw_batch_size, window.device) == (4, None)
