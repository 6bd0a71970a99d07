"""Versions are whole, numbered, and published only if not worse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from labelserver.contracts.model_store import Candidate, ModelStore, VersionWriter
from labelserver.domain.errors import ModelNotFound, StoredDataInvalid
from labelserver.domain.models import ModelVersion, Verdict
from labelserver.model_store.gate import judge
from labelserver.model_store.local import LocalModelStore

KEY = "val_mean_dice"


def candidate(tmp_path: Path, app: Path, *, dice: float | None = None, before: float | None = None) -> Candidate:
    files = []
    for name in ("weights.safetensors", "model.pt"):
        path = tmp_path / "made" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(f"{name} {dice}".encode())
        files.append(path)
    return Candidate(
        model="segmentation",
        files=tuple(files),
        job_id="j1",
        publish_path=app / "model" / "segmentation.pt",
        key_metric=KEY,
        metrics={} if dice is None else {KEY: dice},
        baseline={} if before is None else {KEY: before},
        held_out=() if dice is None else ("case_1",),
        labels={"case_0": "ab" * 32},
        extra={"seed": 3},
    )


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    return folder


@pytest.fixture
def store(app: Path) -> LocalModelStore:
    return LocalModelStore(app)


def test_an_empty_store_knows_nothing(store: LocalModelStore) -> None:
    reader: ModelStore = store
    writer: VersionWriter = store
    assert reader.models() == []
    assert reader.versions("segmentation") == []
    assert writer.current("segmentation") is None
    with pytest.raises(ModelNotFound, match="no version yet"):
        store.version("segmentation", 1)


def test_a_candidate_becomes_a_version_that_is_not_yet_current(
    store: LocalModelStore, tmp_path: Path, app: Path
) -> None:
    given = candidate(tmp_path, app, dice=0.8, before=0.7)
    number = store.add(given)
    version = store.version("segmentation", number)
    assert (number, version.model, version.key_metric) == (1, "segmentation", KEY)
    assert version.metrics == {KEY: 0.8}
    assert version.baseline == {KEY: 0.7}
    assert version.held_out == ("case_1",)
    assert version.labels == given.labels
    assert version.publish_path == "model/segmentation.pt"
    assert store.weights_file("segmentation", 1).read_bytes() == b"weights.safetensors 0.8"
    assert store.current("segmentation") is None
    assert store.decision("segmentation", 1).verdict is Verdict.CANDIDATE
    assert store.models() == ["segmentation"]
    assert not given.files[0].exists()


def test_the_first_version_without_held_out_labels_is_published_unchecked(
    store: LocalModelStore, tmp_path: Path, app: Path
) -> None:
    number = store.add(candidate(tmp_path, app))
    assert store.decide("segmentation", number).verdict is Verdict.UNCHECKED
    current = store.current("segmentation")
    assert current is not None
    assert current.number == number
    assert (app / "model" / "segmentation.pt").read_bytes() == b"model.pt None"


def test_a_better_version_is_published_and_a_worse_one_is_not(
    store: LocalModelStore, tmp_path: Path, app: Path
) -> None:
    first = store.add(candidate(tmp_path, app, dice=0.8))
    assert store.decide("segmentation", first).verdict is Verdict.PUBLISHED
    worse = store.add(candidate(tmp_path, app, dice=0.5, before=0.8))
    decision = store.decide("segmentation", worse)
    assert decision.verdict is Verdict.REJECTED
    assert "0.5000" in decision.reason
    assert "0.8000" in decision.reason
    current = store.current("segmentation")
    assert current is not None
    assert current.number == first
    assert (app / "model" / "segmentation.pt").read_bytes() == b"model.pt 0.8"
    better = store.add(candidate(tmp_path, app, dice=0.9, before=0.8))
    assert store.decide("segmentation", better).verdict is Verdict.PUBLISHED
    assert (app / "model" / "segmentation.pt").read_bytes() == b"model.pt 0.9"


def test_deciding_again_answers_the_same_and_changes_nothing(store: LocalModelStore, tmp_path: Path, app: Path) -> None:
    first = store.add(candidate(tmp_path, app, dice=0.8))
    decision = store.decide("segmentation", first)
    second = store.add(candidate(tmp_path, app, dice=0.9, before=0.8))
    store.decide("segmentation", second)
    assert store.decide("segmentation", first) == decision
    current = store.current("segmentation")
    assert current is not None
    assert current.number == second


def test_a_publication_cut_off_before_its_decision_is_finished_later(
    store: LocalModelStore, tmp_path: Path, app: Path
) -> None:
    first = store.add(candidate(tmp_path, app, dice=0.8))
    store.decide("segmentation", first)
    (app / "versions" / "segmentation" / "1" / "decision.json").unlink()
    (app / "model" / "segmentation.pt").unlink()
    assert LocalModelStore(app).decide("segmentation", first).verdict is Verdict.PUBLISHED
    assert (app / "model" / "segmentation.pt").exists()


def test_an_older_version_can_be_published_by_hand(store: LocalModelStore, tmp_path: Path, app: Path) -> None:
    for dice in (0.8, 0.9):
        store.decide("segmentation", store.add(candidate(tmp_path, app, dice=dice)))
    decision = store.publish("segmentation", 1, "rolled back by alice")
    assert decision.verdict is Verdict.PUBLISHED
    current = store.current("segmentation")
    assert current is not None
    assert current.number == 1
    assert (app / "model" / "segmentation.pt").read_bytes() == b"model.pt 0.8"


def test_weights_that_changed_on_disk_are_not_published(store: LocalModelStore, tmp_path: Path, app: Path) -> None:
    number = store.add(candidate(tmp_path, app, dice=0.8))
    (app / "versions" / "segmentation" / "1" / "model.pt").write_bytes(b"other")
    with pytest.raises(StoredDataInvalid, match="checksum"):
        store.decide("segmentation", number)
    assert store.current("segmentation") is None
    assert not (app / "model" / "segmentation.pt").exists()


def test_a_broken_manifest_is_named(store: LocalModelStore, tmp_path: Path, app: Path) -> None:
    store.add(candidate(tmp_path, app, dice=0.8))
    (app / "versions" / "segmentation" / "1" / "manifest.json").write_text("{")
    with pytest.raises(StoredDataInvalid, match=r"segmentation/1/manifest\.json"):
        store.version("segmentation", 1)


def test_a_failed_addition_leaves_nothing_behind(store: LocalModelStore, tmp_path: Path, app: Path) -> None:
    given = candidate(tmp_path, app, dice=0.8)
    given.files[1].unlink()
    with pytest.raises(Exception, match=r"model\.pt"):
        store.add(given)
    assert store.versions("segmentation") == []
    assert list((app / "versions" / "segmentation").iterdir()) == []


def test_two_writers_never_share_a_number(store: LocalModelStore, tmp_path: Path, app: Path) -> None:
    numbers = [store.add(candidate(tmp_path, app, dice=0.8)), LocalModelStore(app).add(candidate(tmp_path, app))]
    assert numbers == [1, 2]


def version(number: int, dice: float | None, before: float | None = None) -> ModelVersion:
    return ModelVersion(
        model="m",
        number=number,
        created_ts=0.0,
        weights="w",
        sha256="0",
        key_metric=KEY,
        metrics={} if dice is None else {KEY: dice},
        baseline={} if before is None else {KEY: before},
        held_out=() if dice is None else ("a",),
    )


def test_the_margin_forgives_measurement_noise_alone() -> None:
    assert judge(version(2, 0.796, 0.8), None, margin=0.005, now_ts=1).verdict is Verdict.PUBLISHED
    assert judge(version(2, 0.79, 0.8), None, margin=0.005, now_ts=1).verdict is Verdict.REJECTED


def test_a_version_published_meanwhile_is_the_one_to_beat() -> None:
    mine = replace(version(3, 0.85, 0.8), baseline_version=1)
    assert judge(mine, version(2, 0.9), margin=0.005, now_ts=1).verdict is Verdict.REJECTED
    assert judge(mine, replace(version(2, 0.9), held_out=("b",)), margin=0.005, now_ts=1).verdict is Verdict.PUBLISHED
