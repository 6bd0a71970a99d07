"""Numbers of 16 bits, memory layout, compilation: switches that change no promise of a run and no name of a weight."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from labelserver.contracts.progress import watched_by
from labelserver.domain.errors import InvalidParams
from labelserver.tasks import train_speed
from labelserver.tasks.train import Context
from labelserver.tasks.train_speed import Precision, speed_of
from tests.unit.tasks.training_fakes import TinyTrain, Watcher, make_store

QUICK = {"max_epochs": 2, "val_split": 0.5, "seed": 3, "device": "cpu", "tracking": "None"}


class Seen(TinyTrain):
    """Notes what its network is given and calculates with."""

    def network(self, context: Context) -> torch.nn.Module:
        network = super().network(context)
        self.types: set[torch.dtype] = set()
        self.layouts: set[bool] = set()
        convolution = next(module for module in network.modules() if isinstance(module, torch.nn.Conv3d))
        convolution.register_forward_hook(self._note)
        return network

    def _note(self, module: torch.nn.Module, inputs: Any, answer: torch.Tensor) -> None:
        self.types.add(answer.dtype)
        weight = next(module.parameters())
        self.layouts.add(weight.is_contiguous(memory_format=torch.channels_last_3d))

    def loss_function(self, context: Context) -> Any:
        loss = super().loss_function(context)

        def in_32_bits(scores: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            assert scores.dtype is torch.float32
            return loss(scores, label)

        return in_32_bits


def run(folder: Path, **request: Any) -> tuple[Seen, Watcher, dict[str, torch.Tensor]]:
    folder.mkdir(exist_ok=True)
    model = folder / "app" / "model" / "tiny"
    task = Seen(str(model), publish_path=str(folder / "app" / "model" / "tiny.pt"), labels=["cube"])
    watcher = Watcher()
    with watched_by(watcher):
        task({**QUICK, **request}, make_store(folder, 4))  # type: ignore[arg-type]
    weights = torch.load(model / "train_01" / "checkpoint_final.pt", weights_only=True)
    return task, watcher, weights


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of a run without any switch."""
    task, _, weights = run(tmp_path_factory.mktemp("plain"))
    assert task.types == {torch.float32}
    return weights


def same_shapes(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return {k: (v.shape, v.dtype) for k, v in one.items()} == {k: (v.shape, v.dtype) for k, v in other.items()}


def far(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[key] - other[key]).abs().max()) for key in one)


def test_bf16_calculates_in_16_bits_and_keeps_weights_and_loss_in_32(
    plain: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    task, watcher, weights = run(tmp_path, precision="bf16")
    assert task.types == {torch.bfloat16}, "training and validation"
    assert same_shapes(weights, plain)
    assert 0 < far(weights, plain) < 0.1
    assert len(watcher.points) == 2


def test_channels_last_is_a_layout_and_no_other_training(plain: dict[str, torch.Tensor], tmp_path: Path) -> None:
    task, _, weights = run(tmp_path, channels_last=True)
    assert task.layouts == {True}
    assert same_shapes(weights, plain)
    assert far(weights, plain) < 1e-2
    assert all(value.is_contiguous() for value in weights.values())


def test_a_compiled_network_is_trained_under_the_same_names(
    plain: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []

    def noted(graph: Any, inputs: Any) -> Any:
        calls.append(graph)
        return graph.forward

    monkeypatch.setattr(train_speed.torch, "compile", functools.partial(torch.compile, backend=noted))
    _, watcher, weights = run(tmp_path, compile="true")
    assert calls, "the compiler was given the network"
    assert same_shapes(weights, plain)
    assert far(weights, plain) < 1e-3
    assert not any("cannot be compiled" in line for line in watcher.lines)


def test_a_network_that_cannot_be_compiled_trains_as_it_is_and_says_so(
    plain: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_compiler(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(train_speed.torch, "compile", functools.partial(torch.compile, backend=without_compiler))
    _, watcher, weights = run(tmp_path, compile=True)
    assert far(weights, plain) == 0
    assert sum("cannot be compiled here" in line for line in watcher.lines) == 1


def test_an_error_of_the_network_is_no_error_of_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(plain: Any) -> Any:
        def fails(*inputs: Any) -> Any:
            raise RuntimeError("the network is upside down")

        return fails

    monkeypatch.setattr(train_speed.torch, "compile", broken)
    with pytest.raises(RuntimeError, match="upside down"):
        run(tmp_path, compile=True)


@pytest.mark.parametrize(("precision", "says"), [("fp16", "needs a GPU"), ("fp8", "one of auto, bf16, fp16, fp32")])
def test_a_precision_that_is_not_there_is_refused(precision: str, says: str) -> None:
    with pytest.raises(InvalidParams, match=says):
        speed_of({"precision": precision}, torch.device("cpu"), amp=True)


@pytest.mark.parametrize(
    ("has_bf16", "amp", "expected"),
    [(True, True, Precision.BF16), (False, True, Precision.FP16), (True, False, Precision.FP32)],
)
def test_a_gpu_takes_bf16_where_it_has_it_and_fp16_elsewhere(
    has_bf16: bool, amp: bool, expected: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bf16)
    untouched = {"precision": ["auto", "bf16", "fp16", "fp32"]}  # a drop-down that nobody opened
    found = speed_of(untouched, torch.device("cuda"), amp=amp)
    assert (found.precision, found.scales_loss) == (expected, expected is Precision.FP16)
    if not has_bf16:
        with pytest.raises(InvalidParams, match="does not calculate with bf16"):
            speed_of({"precision": "bf16"}, torch.device("cuda"), amp=True)
