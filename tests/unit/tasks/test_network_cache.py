"""Weights are read in every shape that apps have, again when the file is another, and never as code."""

from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from labelserver.contracts.progress import Silent, watched_by
from labelserver.domain.errors import RequestCancelled, TaskFailed
from labelserver.tasks import network_cache
from labelserver.tasks.network_cache import NetworkCache, WeightFile, read_state


def network(value: float = 0.0) -> torch.nn.Module:
    made = torch.nn.Linear(2, 1)
    torch.nn.init.constant_(made.weight, value)
    torch.nn.init.constant_(made.bias, value)
    return made


def saved(path: Path, value: float, form: str) -> Path:
    state = network(value).state_dict()
    if form == "bare":
        torch.save(state, path)
    elif form == "checkpoint":
        torch.save({"model": state, "epoch": 3}, path)
    elif form == "other key":
        torch.save({"net": state}, path)
    elif form == "safetensors":
        save_file(state, str(path))
    else:
        torch.jit.trace(network(value), torch.zeros(1, 2)).save(str(path))
    return path


def answer(made: torch.nn.Module) -> float:
    with torch.no_grad():
        return float(made(torch.ones(1, 2)))


@pytest.mark.parametrize("form", ["bare", "checkpoint", "other key", "safetensors", "torchscript"])
def test_every_shape_of_weight_file_loads_into_the_network(tmp_path: Path, form: str) -> None:
    path = saved(tmp_path / "model.pt", 2.0, form)
    key = "net" if form == "other key" else "model"
    loaded = NetworkCache().get("cpu", network(), WeightFile(path, state_key=key))
    assert answer(loaded) == 6.0
    assert not loaded.training


def test_a_torchscript_file_needs_no_network(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.ts", 2.0, "torchscript")
    assert answer(NetworkCache().get("cpu", None, WeightFile(path))) == 6.0


def test_a_published_file_is_seen_at_the_next_call_even_with_the_same_time_and_size(tmp_path: Path) -> None:
    cache, path = NetworkCache(), saved(tmp_path / "model.pt", 1.0, "bare")
    before = cache.get("cpu", network(), WeightFile(path))
    assert cache.get("cpu", network(), WeightFile(path)) is before
    newer = saved(tmp_path / "newer.pt", 2.0, "bare")
    os.utime(newer, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    newer.replace(path)
    after = cache.get("cpu", network(), WeightFile(path))
    assert (answer(before), answer(after)) == (3.0, 6.0)


def test_the_template_is_never_changed(tmp_path: Path) -> None:
    template = network(5.0)
    NetworkCache().get("cpu", template, WeightFile(saved(tmp_path / "model.pt", 1.0, "bare")))
    assert answer(template) == 15.0


def test_a_file_that_holds_code_is_refused_and_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "ran"),))

    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps({"model": Evil()}, protocol=2))
    with pytest.raises(TaskFailed, match=r"model\.pt cannot be read as weights"):
        read_state(path)
    torch.save({"model": Evil()}, path)
    with pytest.raises(TaskFailed, match=r"model\.pt cannot be read as weights"):
        read_state(path)
    assert not (tmp_path / "ran").exists()


def test_weights_that_do_not_fit_say_so(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(torch.nn.Linear(3, 1).state_dict(), path)
    with pytest.raises(TaskFailed, match="does not fit the network"):
        NetworkCache().get("cpu", network(), WeightFile(path, strict=False))
    torch.save({"other": torch.zeros(1)}, path)
    with pytest.raises(TaskFailed, match="does not fit the network"):
        NetworkCache().get("cpu", network(), WeightFile(path))
    assert answer(NetworkCache().get("cpu", network(4.0), WeightFile(path, strict=False))) == 12.0
    torch.save([1, 2], path)
    with pytest.raises(TaskFailed, match="holds no parameters"):
        read_state(path)


@pytest.mark.parametrize(
    "noise", [b"", b"x", b"0", b"\x80", b"garbage", b"(((((", b"PK\x03\x04 torn", b"\x80\x02]q\x00."]
)
def test_a_file_of_noise_is_refused_by_name(tmp_path: Path, noise: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(noise)
    with pytest.raises(TaskFailed, match=r"model\.pt (cannot be read as weights|holds no parameters)"):
        read_state(path)


def test_train_mode_keeps_dropout_active(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", 1.0, "bare")
    assert NetworkCache().get("cpu", network(), WeightFile(path, train_mode=True)).training


def test_two_first_requests_load_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = saved(tmp_path / "model.pt", 1.0, "bare"), NetworkCache()
    loads: list[str] = []
    real = network_cache.read_state

    def counted(*args: Any) -> Any:
        loads.append("load")
        return real(*args)

    monkeypatch.setattr(network_cache, "read_state", counted)
    threads = [threading.Thread(target=cache.get, args=("cpu", network(), WeightFile(path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == ["load"]


@pytest.mark.parametrize("form", ["bare", "torchscript"])
def test_a_cancelled_request_ends_before_the_next_window(tmp_path: Path, form: str) -> None:
    class Cancelled(Silent):
        def should_stop(self) -> bool:
            return True

    template = network() if form == "bare" else None
    loaded = NetworkCache().get("cpu", template, WeightFile(saved(tmp_path / "model.pt", 1.0, form)))
    assert answer(loaded) == 3.0
    with watched_by(Cancelled()), pytest.raises(RequestCancelled):
        answer(loaded)
