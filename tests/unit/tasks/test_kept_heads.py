"""What inference prepared serves scoring, and the reverse, in another process as well; and is never out of date."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet
from safetensors import safe_open

from labelserver.datastore.local import LocalDatastore
from labelserver.imaging.volumes import write_volume
from labelserver.tasks import case_cache, kept_heads, transform_code
from labelserver.tasks.image_places import cache_home_of, kept_as
from labelserver.tasks.pool_scoring import PoolScoring
from labelserver.tasks.prepared_images import shared
from labelserver.tasks.segmentation import SegmentationInfer
from labelserver.tasks.transforms import LoadVolumed

pytestmark = pytest.mark.usefixtures("new_process")

SHAPE = (14, 12, 10)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read, as often as they were."""
    names: list[str] = []
    load = LoadVolumed.__call__

    def call(self: Any, data: Any) -> Any:
        names.append(Path(data["image"]).name)
        return load(self, data)

    monkeypatch.setattr(LoadVolumed, "__call__", call)
    return names


def write_image(path: Path, seed: int) -> None:
    voxels = np.random.default_rng(seed).integers(0, 255, SHAPE).astype(np.int16)
    write_volume(path, voxels, np.diag([-1.5, -1.5, 2.0, 1.0]), compress=True)


@pytest.fixture
def store(tmp_path: Path) -> LocalDatastore:
    folder = tmp_path / "studies"
    folder.mkdir()
    for number in range(3):
        write_image(folder / f"i{number}.nii.gz", number)
    return LocalDatastore(folder, auto_reload=False)


def task(tmp_path: Path, *, window: tuple[int, int] = (0, 255), network: torch.nn.Module | None = None) -> Any:
    """A task as every process has its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = network or UNet(3, 1, 3, channels=(4, 8), strides=(2,), norm="INSTANCE")
    weights = tmp_path / "m.pt"
    torch.save({"model": made.state_dict()}, weights)
    return SegmentationInfer(
        weights, made, ["organ", "gland"], spacing_mm=(2, 2, 2), roi_size=(8, 8, 8), intensity_window=window
    )


def infer(task: Any, store: LocalDatastore, image_id: str) -> np.ndarray:
    with kept_as(image_id, cache_home_of(store)):
        mask, _ = task({"image": store.get_image_uri(image_id), "result_write_to_file": False})
    return np.asarray(mask)


def another_process() -> None:
    """What a process leaves when it ends is what lies on the disk."""
    kept_heads.settle()
    shared().clear()


def taking(held: list[Any]) -> Any:
    """In the writer's place: what is to be written, for as long as a disk may take."""

    def submit(write: Any, *, wait: bool) -> None:
        held.append(write)

    return submit


def entries(store: LocalDatastore) -> list[Path]:
    return sorted(Path(store.cache_home()).glob("cases/*/*.safetensors"))


def test_a_scoring_after_inferences_decodes_nothing(tmp_path: Path, store: LocalDatastore, decoded: list[str]) -> None:
    ours = task(tmp_path)
    for image_id in store.list_images():
        infer(ours, store, image_id)
    assert len(decoded) == 3
    another_process()
    scored = PoolScoring(task(tmp_path), "m", looks=2)({}, store)
    assert (scored["executed"], scored["failed"]) == (3, {})
    assert len(decoded) == 3


def test_an_inference_after_a_scoring_decodes_nothing_and_answers_the_same(
    tmp_path: Path, store: LocalDatastore, decoded: list[str]
) -> None:
    before = infer(task(tmp_path), LocalDatastore(tmp_path / "studies", auto_reload=False), "i1")
    another_process()
    for file in entries(store):
        file.unlink()
    PoolScoring(task(tmp_path), "m", looks=2)({}, store)
    decoded.clear()
    another_process()
    after = infer(task(tmp_path), store, "i1")
    assert decoded == []
    np.testing.assert_array_equal(after, before)


def test_a_second_scoring_with_new_weights_decodes_nothing(
    tmp_path: Path, store: LocalDatastore, decoded: list[str]
) -> None:
    PoolScoring(task(tmp_path), "m", looks=2)({}, store)
    another_process()
    newer = task(tmp_path, network=UNet(3, 1, 3, channels=(4, 8), strides=(2,), norm="INSTANCE"))
    assert PoolScoring(newer, "m", looks=2)({}, store)["executed"] == 3
    assert len(decoded) == 3


def test_a_changed_file_is_decoded_anew(tmp_path: Path, store: LocalDatastore, decoded: list[str]) -> None:
    infer(task(tmp_path), store, "i0")
    another_process()
    write_image(tmp_path / "studies" / "i0.nii.gz", 9)
    changed = infer(task(tmp_path), store, "i0")
    assert decoded == ["i0.nii.gz", "i0.nii.gz"]
    another_process()
    np.testing.assert_array_equal(infer(task(tmp_path), store, "i0"), changed)
    assert len(decoded) == 2


def test_a_file_that_changes_while_it_is_read_is_not_kept(
    tmp_path: Path, store: LocalDatastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = LoadVolumed.__call__

    def call(self: Any, data: Any) -> Any:
        found = load(self, data)
        write_image(Path(data["image"]), 9)
        return found

    monkeypatch.setattr(LoadVolumed, "__call__", call)
    infer(task(tmp_path), store, "i0")
    another_process()
    assert entries(store) == []


@pytest.mark.parametrize("what", ["settings", "code"])
def test_other_settings_and_other_code_decode_anew(
    tmp_path: Path, store: LocalDatastore, decoded: list[str], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    infer(task(tmp_path), store, "i0")
    another_process()
    if what == "code":
        monkeypatch.setattr(transform_code, "_own_code", lambda: "edited")
    infer(task(tmp_path, window=(0, 255) if what == "code" else (0, 100)), store, "i0")
    assert len(decoded) == 2


def test_who_waits_for_an_answer_waits_for_no_checksum(
    tmp_path: Path, store: LocalDatastore, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[Any] = []
    monkeypatch.setattr(kept_heads._writer, "submit", taking(held))
    monkeypatch.setattr(case_cache, "sha256_of", lambda file: pytest.fail("a click hashed a file"))
    infer(task(tmp_path), store, "i0")
    assert (len(decoded), len(held), entries(store)) == (1, 1, [])


def test_what_is_made_as_fast_as_read_is_not_written(
    tmp_path: Path, store: LocalDatastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    assert kept_heads.is_worth_reading(2.0, 200 * 10**6)
    assert not kept_heads.is_worth_reading(0.5, 200 * 10**6)
    assert not kept_heads.is_worth_reading(0.01, 1000)
    monkeypatch.setattr(kept_heads, "_SETTLED_S", -1.0)
    monkeypatch.setattr(kept_heads, "is_worth_reading", lambda made_s, size_bytes: False)
    infer(task(tmp_path), store, "i0")
    another_process()
    assert entries(store) == []


def test_a_network_that_writes_into_its_input_spoils_nothing_on_disk(
    tmp_path: Path, store: LocalDatastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Writes(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x.mul_(0.5)
            return torch.cat([x, x * 0, x * 0], dim=1)

    held: list[Any] = []
    monkeypatch.setattr(kept_heads._writer, "submit", taking(held))
    infer(task(tmp_path, network=Writes()), store, "i0")
    for write in held:  # as late as the disk may be
        write()
    for file in entries(store):
        with safe_open(str(file), framework="np") as stored:
            assert max(float(stored.get_tensor(name).max()) for name in stored.keys()) > 0.6  # noqa: SIM118


def test_what_a_call_does_to_an_image_that_it_found_does_not_reach_the_file(
    tmp_path: Path, store: LocalDatastore
) -> None:
    cache = case_cache.CaseCache(tmp_path / "cases", 10**6)
    assert cache.save("key", "i0", {}, {"image": torch.ones(2, 3, 4)})
    found = cache.load("key", "i0", {})
    assert found is not None
    found["image"].mul_(5)
    assert float(cache.load("key", "i0", {})["image"].max()) == 1.0  # type: ignore[index]  # it is there


def test_an_image_that_was_erased_meanwhile_leaves_nothing(
    tmp_path: Path, store: LocalDatastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[Any] = []
    monkeypatch.setattr(kept_heads._writer, "submit", taking(held))
    infer(task(tmp_path), store, "i0")
    (tmp_path / "studies" / "i0.nii.gz").unlink()
    for write in held:
        write()
    home = Path(store.cache_home()) / "cases"
    assert not home.is_dir() or list(home.iterdir()) == []


def test_all_entries_stay_within_the_limit_of_prepared_cases(
    tmp_path: Path, store: LocalDatastore, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    ours = task(tmp_path)
    infer(ours, store, "i0")
    another_process()
    size = entries(store)[0].stat().st_size
    monkeypatch.setenv("LABELSERVER_CASE_CACHE_BYTES", str(2 * size + 100))
    for image_id in ("i1", "i2"):
        infer(ours, store, image_id)
        kept_heads.settle()
    assert sum(file.stat().st_size for file in entries(store)) <= 2 * size + 100
    another_process()
    decoded.clear()
    infer(ours, store, "i2")
    assert decoded == []
    monkeypatch.setenv("LABELSERVER_CASE_CACHE_BYTES", "0")
    another_process()
    infer(ours, store, "i2")
    assert decoded == ["i2.nii.gz"]


def test_a_damaged_entry_is_made_again(tmp_path: Path, store: LocalDatastore, decoded: list[str]) -> None:
    infer(task(tmp_path), store, "i0")
    another_process()
    (damaged,) = entries(store)
    damaged.write_bytes(damaged.read_bytes()[:-7])
    infer(task(tmp_path), store, "i0")
    assert len(decoded) == 2


def test_an_image_of_no_store_is_not_kept(tmp_path: Path, store: LocalDatastore) -> None:
    task(tmp_path)({"image": store.get_image_uri("i0"), "result_write_to_file": False})
    another_process()
    assert entries(store) == []
