"""Prepared cases are found again by content, in the next run and under another name, and never beyond their limits."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Lambdad,
    LoadImaged,
    MapTransform,
    RandSpatialCropd,
    ScaleIntensityd,
    Spacingd,
)
from monai.utils import TraceKeys

from labelserver import settings
from labelserver.contracts.progress import watched_by
from labelserver.domain.ids import folder_key
from labelserver.settings import Settings
from labelserver.tasks.case_cache import CaseCache
from labelserver.tasks.prepared_cases import PreparedCases
from labelserver.tasks.train_data import CaseDataset
from labelserver.tasks.train_memory import DatasetKind, planned, step_bytes
from labelserver.tasks.transform_code import code_hash
from tests.unit.tasks.training_fakes import CaseStore, Watcher, make_store, tiny, write_case

MIB = 2**20


@pytest.fixture
def store(tmp_path: Path) -> CaseStore:
    (tmp_path / "studies").mkdir()
    return make_store(tmp_path / "studies", 5)


@pytest.fixture
def cache(tmp_path: Path) -> CaseCache:
    return CaseCache(tmp_path / "cache", MIB)


class Counted(MapTransform):  # type: ignore[misc]  # MONAI tells no types
    """Counts how often a case goes through."""

    calls: list[str] = []  # noqa: RUF012  set anew by each test

    def __init__(self, keys: Any, factor: float = 1.0) -> None:
        super().__init__(keys)
        self.factor = factor

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        Counted.calls.append(str(data["image"].meta["filename_or_obj"]))
        return dict(data)


@pytest.fixture(autouse=True)
def _no_calls_yet() -> None:
    Counted.calls = []


def steps(factor: float = 1.0) -> list[Any]:
    keys = ["image", "label"]
    return [
        LoadImaged(keys),
        EnsureChannelFirstd(keys),
        Spacingd(keys, pixdim=(2.0, 2.0, 2.0), mode=("bilinear", "nearest")),
        ScaleIntensityd("image"),
        Counted("image", factor),
        RandSpatialCropd(keys, roi_size=(4, 4, 4), random_size=False),
    ]


def dataset(store: CaseStore, cache: CaseCache, *, budget: int = MIB, factor: float = 1.0) -> CaseDataset:
    def image_id_of(case: dict[str, Any]) -> str:
        return Path(case["image"]).name.partition(".")[0]

    return CaseDataset(
        store.datalist(),
        Compose(steps(factor)),
        budget_bytes=budget,
        seed=3,
        prepared=lambda code: PreparedCases(cache, code, image_id_of),
    )


def prepare(data: CaseDataset) -> None:
    assert [problem for _, problem in data.prepare()] == [None] * len(data.data)
    assert data.on_disk is not None
    data.on_disk.settle()


def alike(one: Any, other: Any) -> None:
    """The same types and values, all the way down."""
    if isinstance(one, MetaTensor):
        assert isinstance(other, MetaTensor)
        alike(dict(one.meta), dict(other.meta))
        alike(list(one.applied_operations), list(other.applied_operations))
    if isinstance(one, torch.Tensor | np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    elif isinstance(one, Mapping):
        assert list(one) == list(other)
        for name in one:
            if name != TraceKeys.ID:  # which instance did it: another one in each run
                alike(one[name], other[name])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            alike(left, right)
    else:
        assert one == other or (one != one and other != other)


def test_a_case_comes_back_as_it_was_with_all_that_is_known_about_it(store: CaseStore, cache: CaseCache) -> None:
    case = store.datalist()[0]
    item = Compose(steps())(dict(case), end=4)
    item |= {"more": [np.float32(2.5), (1, None, True), {"a": np.arange(3)}, "text"], "path": case["image"]}
    assert cache.save("key", "case_0", case, item)
    alike(cache.load("key", "case_0", case), item)


@pytest.mark.parametrize("part", [object(), np.array(["text"]), {1, 2}, torch.zeros(2, dtype=torch.complex64)])
def test_what_is_neither_array_nor_plain_is_not_kept(part: object, cache: CaseCache) -> None:
    assert not cache.save("key", "a", {}, {"part": part})
    assert cache.load("key", "a", {}) is None


def test_the_next_run_prepares_nothing_and_gets_the_same(store: CaseStore, cache: CaseCache) -> None:
    first, second = dataset(store, cache), dataset(store, cache)
    prepare(first)
    assert len(Counted.calls) == 5
    prepare(second)
    assert len(Counted.calls) == 5
    for data in (first, second):
        data.epoch = 1
    alike([first[index] for index in range(5)], [second[index] for index in range(5)])


def test_what_an_earlier_run_prepared_can_be_inverted_by_this_one(store: CaseStore, cache: CaseCache) -> None:
    case = store.datalist()[0]
    transform = Compose([*steps()[:2], Spacingd("image", pixdim=(2.0, 2.0, 2.0))])
    item = transform(dict(case))
    cache.save("key", "case_0", case, item)
    kept = cache.load("key", "case_0", case)
    again = Compose([*steps()[:2], Spacingd("image", pixdim=(2.0, 2.0, 2.0))])
    assert kept is not None
    inverted = again.inverse({"image": kept["image"]})
    assert inverted["image"].shape[-3:] == (16, 16, 16)


def test_one_new_label_costs_one_case(store: CaseStore, cache: CaseCache) -> None:
    prepare(dataset(store, cache))
    Counted.calls.clear()
    write_case(store.folder, "case_5", seed=5)
    store.names.append("case_5")
    prepare(dataset(store, cache))
    assert [Path(name).name for name in Counted.calls] == ["case_5.nii.gz"]


@pytest.mark.parametrize("what", ["image", "label"])
def test_another_content_is_prepared_anew(store: CaseStore, cache: CaseCache, what: str) -> None:
    prepare(dataset(store, cache))
    Counted.calls.clear()
    cases = store.datalist()
    shutil.copy(cases[1][what], cases[0][what])
    prepare(dataset(store, cache))
    assert [Path(name).name for name in Counted.calls] == ["case_0.nii.gz"]


def test_other_settings_of_a_transform_are_other_cases(store: CaseStore, cache: CaseCache) -> None:
    prepare(dataset(store, cache))
    prepare(dataset(store, cache, factor=2.0))
    assert len(Counted.calls) == 10


def test_a_renamed_image_is_found_by_its_content_and_goes_by_its_new_name(store: CaseStore, cache: CaseCache) -> None:
    prepare(dataset(store, cache))
    Counted.calls.clear()
    for folder in (store.folder, store.folder / "labels" / "final"):
        (folder / "case_0.nii.gz").rename(folder / "other.nii.gz")
    store.names[0] = "other"
    renamed = dataset(store, cache)
    prepare(renamed)
    assert Counted.calls == []
    assert renamed[0]["image"].meta["filename_or_obj"].endswith("other.nii.gz")


def test_everything_about_an_image_lies_in_its_folder(store: CaseStore, cache: CaseCache, tmp_path: Path) -> None:
    prepare(dataset(store, cache))
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {folder_key(name) for name in store.names}


def test_a_damaged_entry_is_made_again(store: CaseStore, cache: CaseCache, tmp_path: Path) -> None:
    prepare(dataset(store, cache))
    damaged = next((tmp_path / "cache" / folder_key("case_0")).glob("*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    Counted.calls.clear()
    prepare(dataset(store, cache))
    assert [Path(name).name for name in Counted.calls] == ["case_0.nii.gz"]
    assert damaged.stat().st_size > 1000


def test_the_disk_limit_is_never_exceeded_and_the_oldest_go_first(store: CaseStore, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    prepare(dataset(store, CaseCache(folder, MIB)))
    sizes = [file.stat().st_size for file in folder.glob("*/*.safetensors")]
    limit = 3 * max(sizes) + 8192
    shutil.rmtree(folder)
    small = CaseCache(folder, limit)
    for number, case in enumerate(store.datalist()):
        data = dataset(CaseStore(store.folder, [store.names[number]]), small)
        prepare(data)
        held = list(folder.glob("*/*.safetensors"))
        for age, file in enumerate(sorted(held, key=lambda f: f.stat().st_mtime_ns)):
            os.utime(file, (1000 + 10 * number + age, 1000 + 10 * number + age))
        assert sum(file.stat().st_size for file in held) <= limit
        assert any(folder_key(store.names[number]) in str(file) for file in held), case
    assert not list((folder / folder_key("case_0")).glob("*.safetensors"))


def test_the_memory_cap_is_never_exceeded_and_the_rest_comes_from_the_disk(store: CaseStore, cache: CaseCache) -> None:
    whole = dataset(store, cache)
    prepare(whole)
    budget = whole.cached_bytes * 3 // 5 + 10
    bounded = dataset(store, cache, budget=budget)
    prepare(bounded)
    Counted.calls.clear()
    for epoch in (1, 2):
        for data in (whole, bounded):
            data.epoch = epoch
        alike([bounded[index] for index in range(5)], [whole[index] for index in range(5)])
        assert bounded.cached_bytes <= budget
    assert bounded.cached_cases == 3
    assert Counted.calls == []


def test_code_with_hidden_state_is_not_told_apart_and_so_not_kept() -> None:
    assert code_hash(steps()) == code_hash(steps())
    assert code_hash(steps()) != code_hash(steps(2.0))
    assert code_hash([iter([1])]) is None


def test_functions_count_by_what_they_hold() -> None:
    def scaled(factor: float) -> Any:
        return Lambdad("image", lambda value: value * factor)

    assert code_hash([scaled(2.0)]) == code_hash([scaled(2.0)])
    assert code_hash([scaled(2.0)]) != code_hash([scaled(3.0)])


def test_an_edited_source_file_is_another_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = []
    for body in ("return data", "return dict(data)"):
        file = tmp_path / body.partition("(")[0] / "their_steps.py"
        file.parent.mkdir()
        file.write_text(f"class Step:\n    def __call__(self, data):\n        {body}\n")
        spec = importlib.util.spec_from_file_location("their_steps", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "their_steps", module)
        spec.loader.exec_module(module)
        hashes.append(code_hash([module.Step()]))
    assert None not in hashes
    assert hashes[0] != hashes[1]


def test_the_plan_is_made_from_the_first_case_and_the_headers(store: CaseStore) -> None:
    cases = store.datalist()
    plan = planned(cases, 1000, 5000, on_disk=True, wants_bounded=False)
    assert (plan.kind, plan.total_bytes) == (DatasetKind.PLAIN, 5000)
    assert "all stay in memory" in plan.sentence("to train on")
    tight = planned(cases, 1000, 4999, on_disk=True, wants_bounded=False)
    assert tight.kind is DatasetKind.BOUNDED
    assert "prepared cases on disk" in tight.sentence("to train on")
    assert planned(cases, 1, 5000, on_disk=True, wants_bounded=True).kind is DatasetKind.BOUNDED


def test_the_device_memory_of_a_step_is_told_without_taking_it() -> None:
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 1), torch.nn.Conv3d(4, 2, 1))
    parameters = sum(p.numel() for p in network.parameters())
    voxels = 8**3
    assert step_bytes(network, (2, 1, 8, 8, 8)) == 4 * (2 * voxels * (4 + 2) + 4 * parameters + 2 * voxels)


class Cached(CaseStore):
    """A store that offers a place for prepared cases."""

    def cache_home(self) -> str:
        return str(self.folder.parent / "cache")


@pytest.fixture
def cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_installed", Settings(training_memory_bytes=100_000))


@pytest.mark.slow
@pytest.mark.usefixtures("cap")
def test_a_run_says_what_it_will_take_and_the_second_one_finds_all_cases(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    made = make_store(tmp_path / "studies", 6)
    store, watchers = Cached(made.folder, made.names), [Watcher(), Watcher()]
    for watcher in watchers:
        with watched_by(watcher):
            tiny(tmp_path)({"max_epochs": 1, "device": "cpu", "seed": 1}, store)  # type: ignore[arg-type]
    told = [report["memory_plan"] for report in watchers[0].reports if "memory_plan" in report]
    assert {plan["cap_bytes"] for plan in told} <= set(range(100_001))  # type: ignore[index, call-overload]
    assert any("may be used, so" in line for line in watchers[0].lines)
    assert any("A step on" in line for line in watchers[0].lines)
    counts = [[report for report in watcher.reports if "cases_found" in report] for watcher in watchers]
    assert sum(int(str(report["cases_prepared"])) for report in counts[0]) == 6
    assert sum(int(str(report["cases_prepared"])) for report in counts[1]) == 0
    assert sum(int(str(report["cases_found"])) for report in counts[1]) == 6
