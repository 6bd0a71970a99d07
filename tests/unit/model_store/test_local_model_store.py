"""Versions are whole, numbered, and published only if not worse."""

from __future__ import annotations

from pathlib import Path

import pytest

from labelserver.contracts.model_store import Candidate, ModelStore, VersionWriter
from labelserver.domain.errors import Conflict, ModelNotFound, StoredDataInvalid, VersionTaken
from labelserver.domain.models import ADOPTED, Decision, GateNumbers, GateRule, ModelAct, Verdict
from labelserver.model_store.local import LocalModelStore

KEY = "val_mean_dice"


def candidate(
    tmp_path: Path, app: Path, *, dice: float | None = None, before: float | None = None, number: int | None = None
) -> Candidate:
    """One held-out case, measured with `dice`; `before`: what the version in use reached on it."""
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
        cases={} if dice is None else {"case_1": {KEY: dice}},
        baseline_version=None if before is None else LocalModelStore(app).current_number("segmentation"),
        baseline={} if before is None else {KEY: before},
        baseline_cases={} if before is None else {"case_1": {KEY: before}},
        held_out=() if dice is None else ("case_1",),
        held_out_labels={} if dice is None else {"case_1": "cd" * 32},
        labels={"case_0": "ab" * 32},
        revisions={"case_0": 2},
        network_hash="ef" * 32,
        extra={"seed": 3},
        number=number,
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
    assert (version.cases, version.baseline_cases) == ({"case_1": {KEY: 0.8}}, {"case_1": {KEY: 0.7}})
    assert version.held_out == ("case_1",)
    assert (version.labels, version.revisions) == (given.labels, {"case_0": 2})
    assert version.network_hash == given.network_hash
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


def test_a_decision_keeps_the_numbers_it_was_made_from(store: LocalModelStore, tmp_path: Path, app: Path) -> None:
    store.decide("segmentation", store.add(candidate(tmp_path, app, dice=0.8)))
    number = store.add(candidate(tmp_path, app, dice=0.5, before=0.8))
    store.decide("segmentation", number)
    numbers = store.decision("segmentation", number).numbers
    assert numbers == GateNumbers(GateRule.MEAN, 0.005, 1, 0.8, 0.5, {"case_1": (0.8, 0.5)})
    forced = store.publish("segmentation", number, "I looked at it.", "ada")
    assert forced.numbers == numbers
    assert store.decision("segmentation", number) == forced


def test_going_back_twice_leads_two_publications_back(store: LocalModelStore, tmp_path: Path, app: Path) -> None:
    for dice in (0.7, 0.8, 0.9):
        store.decide("segmentation", store.add(candidate(tmp_path, app, dice=dice)))
    assert in_use(store) == 3
    assert store.roll_back("segmentation", "worse in use", "ada") == 2
    assert (app / "model" / "segmentation.pt").read_bytes() == b"model.pt 0.8"
    assert store.roll_back("segmentation", "again", "ada") == 1
    assert (app / "model" / "segmentation.pt").read_bytes() == b"model.pt 0.7"
    with pytest.raises(Conflict, match="nothing to go back to"):
        store.roll_back("segmentation", "once more", "ada")
    assert in_use(store) == 1
    told = [(event.act, event.number, event.person) for event in store.history("segmentation")]
    assert told[-2:] == [(ModelAct.ROLL_BACK, 2, "ada"), (ModelAct.ROLL_BACK, 1, "ada")]


def test_a_publication_after_a_roll_back_is_what_the_next_one_takes_back(
    store: LocalModelStore, tmp_path: Path, app: Path
) -> None:
    for dice in (0.7, 0.8):
        store.decide("segmentation", store.add(candidate(tmp_path, app, dice=dice)))
    store.roll_back("segmentation", "", "ada")
    store.decide("segmentation", store.add(candidate(tmp_path, app, dice=0.9)))
    assert in_use(store) == 3
    assert store.roll_back("segmentation", "", "ada") == 1


def test_versions_without_a_history_can_be_gone_back_to(store: LocalModelStore, tmp_path: Path, app: Path) -> None:
    for dice in (0.7, 0.8):
        store.decide("segmentation", store.add(candidate(tmp_path, app, dice=dice)))
    (app / "versions" / "segmentation" / "history.jsonl").unlink()
    assert store.roll_back("segmentation", "", "ada") == 1


def test_the_version_in_use_can_neither_be_deleted_nor_rejected(
    store: LocalModelStore, tmp_path: Path, app: Path
) -> None:
    store.decide("segmentation", store.add(candidate(tmp_path, app, dice=0.8)))
    with pytest.raises(Conflict, match="in use"):
        store.delete("segmentation", 1)
    with pytest.raises(Conflict, match="in use"):
        store.reject("segmentation", 1, "no")
    assert store.current("segmentation") is not None


def test_a_deleted_number_is_never_given_again(store: LocalModelStore, tmp_path: Path, app: Path) -> None:
    store.decide("segmentation", store.add(candidate(tmp_path, app, dice=0.8)))
    number = store.add(candidate(tmp_path, app, dice=0.9))
    store.delete("segmentation", number, "ada")
    assert [v.number for v in store.versions("segmentation")] == [1]
    assert not list((app / "versions" / "segmentation").glob(".*"))
    assert LocalModelStore(app).add(candidate(tmp_path, app, dice=0.9)) == 3


def test_a_pinned_version_stays_in_use_and_on_disk(store: LocalModelStore, tmp_path: Path, app: Path) -> None:
    store.decide("segmentation", store.add(candidate(tmp_path, app, dice=0.8)))
    store.pin("segmentation", 1, "ada")
    assert store.is_pinned("segmentation", 1)
    decision = store.decide("segmentation", store.add(candidate(tmp_path, app, dice=0.9, before=0.8)))
    assert decision.verdict is Verdict.REJECTED
    assert "pinned" in decision.reason
    assert in_use(store) == 1
    store.publish("segmentation", 2, "by hand", "ada")
    with pytest.raises(Conflict, match="pinned"):
        store.delete("segmentation", 1)
    store.pin("segmentation", 1, "ada", pinned=False)
    store.delete("segmentation", 1)
    assert [v.number for v in store.versions("segmentation")] == [2]


def test_a_rejected_candidate_stays_rejected(store: LocalModelStore, tmp_path: Path, app: Path) -> None:
    store.decide("segmentation", store.add(candidate(tmp_path, app, dice=0.8)))
    number = store.add(candidate(tmp_path, app, dice=0.9))
    rejected = store.reject("segmentation", number, "It misses the tail.", "ada")
    assert (rejected.verdict, rejected.person) == (Verdict.REJECTED, "ada")
    assert store.decide("segmentation", number) == rejected
    assert in_use(store) == 1


def test_weights_from_before_are_version_0_and_the_next_one_is_1(
    store: LocalModelStore, tmp_path: Path, app: Path
) -> None:
    assert store.add(candidate(tmp_path, app, number=ADOPTED)) == 0
    with pytest.raises(VersionTaken):
        store.add(candidate(tmp_path, app, number=ADOPTED))
    assert store.decide("segmentation", 0).verdict is Verdict.UNCHECKED
    assert store.add(candidate(tmp_path, app, dice=0.8)) == 1
    assert store.published_file("segmentation", 0).read_bytes() == b"model.pt None"


def test_a_decision_of_an_older_release_is_still_read(store: LocalModelStore, tmp_path: Path, app: Path) -> None:
    number = store.add(candidate(tmp_path, app, dice=0.8))
    old = app / "versions" / "segmentation" / str(number) / "decision.json"
    old.write_text('{"format": 1, "verdict": "rejected", "reason": "worse", "ts": 3.0}')
    assert store.decision("segmentation", number) == Decision(Verdict.REJECTED, "worse", 3.0)


def in_use(store: LocalModelStore) -> int | None:
    current = store.current("segmentation")
    return None if current is None else current.number
