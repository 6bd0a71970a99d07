"""Images are given to one person at a time, or to as many as is meant, whatever these people do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from labelserver.contracts.datastore import Datastore
from labelserver.datastore.local import LocalDatastore
from labelserver.datastore.queue import Asking
from labelserver.domain.errors import InvalidParams, LeaseLost, LeaseNotFound
from labelserver.domain.ids import FINAL, ImageId
from labelserver.domain.labels import LabelSource, Provenance
from labelserver.domain.work import EndOfWork, Group, Lease, Member, NoWork, Offer, Stage, Workflow
from labelserver.tasks.strategies import First, HighestScore, Random
from tests.support.study_folder import put_image, put_label

COUNT = 6


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def label(tmp_path: Path) -> Path:
    return put_label(tmp_path / "label.nii.gz", 2)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[LocalDatastore]:
    (tmp_path / "studies").mkdir()
    for number in range(COUNT):
        put_image(tmp_path / "studies", f"i{number}.nii.gz")
    opened = LocalDatastore(tmp_path / "studies")
    opened.work.queue._clock = clock
    set_rules(opened, Workflow(overlap_share=0))
    yield opened
    opened.close()


def set_rules(store: LocalDatastore, rules: Workflow) -> None:
    store.work.workflows.replace(rules, based_on=None, person="anna")


def first(view: Datastore) -> Offer | None:
    chosen = First()({}, view)
    return Offer(ImageId(chosen["id"]), {"why": "the first"}) if chosen else None


def take(store: LocalDatastore, person: str, **how: bool) -> Lease | NoWork:
    return store.work.take(Asking(person, "first", **how), first)


def given(store: LocalDatastore, person: str, **how: bool) -> Lease:
    lease = take(store, person, **how)
    assert isinstance(lease, Lease), lease
    return lease


def submit(store: LocalDatastore, image: str, person: str, label: Path, tag: str = FINAL) -> str:
    return store.accept_label(ImageId(image), label, ".nii.gz", tag, Provenance(person), {}).tag


def test_nobody_gets_what_somebody_has(store: LocalDatastore) -> None:
    images = [given(store, f"p{n}").image_id for n in range(COUNT)]
    assert sorted(images) == [f"i{n}" for n in range(COUNT)]
    none = take(store, "late")
    assert isinstance(none, NoWork)
    assert none.why is EndOfWork.ALL_LEASED
    assert none.leased == COUNT


def test_people_who_hold_hundreds_of_images_are_served_along_the_images(store: LocalDatastore, label: Path) -> None:
    """Programs behind one address are one person; his leases must not be searched for each image that is looked at."""
    seen: list[str] = []
    with store._index.reading() as connection:
        connection.set_trace_callback(seen.append)
    given(store, "anna")
    submit(store, "i0", "anna", label)
    with store._index.reading() as connection:
        connection.set_trace_callback(None)
        searched = [s for s in seen if "leases" in s and "image_id = " in s and "person" in s and "INSERT" not in s]
        assert len(searched) >= 3
        for statement in searched:
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
            along = [line for line in plan if "leases" in line]
            assert along, statement
            assert not any("leases_by_person" in line for line in along), (statement, plan)


def test_the_image_one_has_comes_first_until_it_is_submitted(store: LocalDatastore, label: Path) -> None:
    lease = given(store, "anna")
    assert given(store, "anna").lease_id == lease.lease_id
    assert submit(store, lease.image_id, "anna", label) == FINAL
    assert given(store, "anna").image_id == "i1"
    with pytest.raises(LeaseNotFound):
        store.work.queue.beat(lease.lease_id, "anna")


def test_silence_ends_a_lease_and_a_heartbeat_does_not(store: LocalDatastore, clock: Clock) -> None:
    lease = given(store, "anna")
    for _ in range(5):
        clock.now += lease.length_s - 1
        assert store.work.queue.beat(lease.lease_id, "anna").until_ts == clock.now + lease.length_s
    clock.now += lease.length_s + 1
    assert given(store, "bea").image_id == "i0"
    with pytest.raises(LeaseLost, match="somebody else"):
        store.work.queue.beat(lease.lease_id, "anna")


def test_a_late_heartbeat_gets_the_image_back_if_nobody_has_it(store: LocalDatastore, clock: Clock) -> None:
    lease = given(store, "anna")
    clock.now += lease.length_s + 1
    assert store.work.queue.beat(lease.lease_id, "anna").until_ts > clock.now
    assert given(store, "bea").image_id == "i1"


def test_a_lease_is_its_holders_alone(store: LocalDatastore) -> None:
    lease = given(store, "anna")
    for verb in (store.work.queue.beat, store.work.queue.release, store.work.queue.lease):
        with pytest.raises(LeaseNotFound):
            verb(lease.lease_id, "bea")
    with pytest.raises(LeaseNotFound):
        store.work.queue.skip(lease.lease_id, "bea", "mine now")
    assert len(lease.lease_id) >= 32


def test_a_released_image_goes_to_the_next_and_a_skipped_one_not_back_to_the_same(store: LocalDatastore) -> None:
    lease = given(store, "anna")
    store.work.queue.release(lease.lease_id, "anna")
    assert given(store, "bea").image_id == lease.image_id
    other = given(store, "anna")
    store.work.queue.skip(other.lease_id, "anna", "too dark")
    assert given(store, "anna").image_id == "i2"
    assert given(store, "carl").image_id == other.image_id
    assert any(e.act.action == "skip" and e.act.detail["reason"] == "too dark" for e in store.audit_log(20))


def test_who_skipped_everything_is_told_so_and_can_have_it_again(store: LocalDatastore) -> None:
    for _ in range(COUNT):
        store.work.queue.skip(given(store, "anna").lease_id, "anna", "")
    none = take(store, "anna")
    assert isinstance(none, NoWork)
    assert (none.why, none.skipped) == (EndOfWork.NOTHING_LEFT, COUNT)
    assert given(store, "anna", again=True).image_id == "i0"


def test_three_readers_are_three_different_people(store: LocalDatastore, label: Path) -> None:
    set_rules(store, Workflow(overlap_share=1, overlap_readers=3))
    people = ["anna", "bea", "carl", "dora"]
    leases = [given(store, person) for person in people]
    assert [(lease.image_id, lease.tag) for lease in leases] == [
        ("i0", "reader_1"),
        ("i0", "reader_2"),
        ("i0", "reader_3"),
        ("i1", "reader_1"),
    ]
    assert [submit(store, "i0", person, label) for person in people[:3]] == ["reader_1", "reader_2", "reader_3"]
    assert store.work.works(["i0"])["i0"].stage is Stage.SUBMITTED
    assert all(given(store, person).image_id != "i0" for person in people)


def test_a_reader_who_vanishes_leaves_his_place_to_another(store: LocalDatastore, label: Path, clock: Clock) -> None:
    set_rules(store, Workflow(overlap_share=1, overlap_readers=2))
    gone, stays = given(store, "anna"), given(store, "bea")
    assert submit(store, "i0", "bea", label) == stays.tag == "reader_2"
    clock.now += gone.length_s + 1
    assert given(store, "carl").tag == gone.tag == "reader_1"
    assert submit(store, "i0", "carl", label) == "reader_1"
    assert submit(store, "i0", "anna", label) == "reader_3", "a late label is kept beside the others"


def test_a_reader_corrects_his_own_reading(store: LocalDatastore, label: Path) -> None:
    set_rules(store, Workflow(overlap_share=1, overlap_readers=2))
    given(store, "anna")
    given(store, "bea")
    assert [submit(store, "i0", who, label) for who in ("anna", "bea", "anna")] == ["reader_1", "reader_2", "reader_1"]
    assert [r.number for r in store.revisions(ImageId("i0"), "reader_1")] == [1, 2]


def test_only_reviewers_and_consensus_write_final_of_a_read_image(store: LocalDatastore, label: Path) -> None:
    rules = Workflow(overlap_share=1, overlap_readers=2, members=(Member("rita", frozenset(("reviewer",))),))
    set_rules(store, rules)
    given(store, "anna")
    assert submit(store, "i0", "stranger", label) == "reader_1"
    assert submit(store, "i0", "anna", label) == "reader_2", "the stranger's place came first; nothing is lost"
    assert submit(store, "i0", "rita", label) == FINAL
    made = Provenance("rita", source=LabelSource.CONSENSUS)
    assert store.accept_label(ImageId("i1"), label, ".nii.gz", FINAL, made, {}).tag == FINAL


def test_how_many_people_get_an_image_is_a_keyed_share_that_stays(store: LocalDatastore) -> None:
    rules = Workflow(overlap_share=0.05, overlap_readers=2)
    ids = [f"case-{n}" for n in range(4000)]
    chosen = {i for i in ids if rules.readers_of(i, b"key") == 2}
    assert 140 < len(chosen) < 260
    assert chosen == {i for i in ids if rules.readers_of(i, b"key") == 2}
    assert chosen != {i for i in ids if rules.readers_of(i, b"other") == 2}
    set_rules(store, Workflow(overlap_share=1, overlap_readers=3))
    assert given(store, "anna").readers == 3
    set_rules(store, Workflow(overlap_share=0))
    assert given(store, "bea").image_id == "i0", "an image that was given to somebody keeps its number"


def test_groups_get_their_own_images(store: LocalDatastore) -> None:
    groups = (Group("odd", ("i1", "i3", "i5"), ("liver",)), Group("seniors", ("i0",), roles=frozenset(("senior",))))
    members = (Member("anna", groups=frozenset(("odd",))), Member("sam", roles=frozenset(("senior",))))
    set_rules(store, Workflow(overlap_share=0, members=members, groups=groups))
    assert [given(store, "anna", resume=False).image_id for _ in range(5)] == ["i1", "i2", "i3", "i4", "i5"]
    assert given(store, "sam").image_id == "i0"
    none = take(store, "bea")
    assert isinstance(none, NoWork)
    assert store.work.rules.labels_for("anna", "i3") == ("liver",)


def test_rules_that_make_no_sense_are_refused() -> None:
    for wrong in (
        {"overlap_share": 1.5},
        {"overlap_readers": 0},
        {"lease_s": 0},
        {"members": (Member("anna", groups=frozenset(("none",))),)},
        {"groups": (Group("a", ()),)},
        {"members": (Member("anna"), Member("anna"))},
    ):
        with pytest.raises(InvalidParams):
            Workflow(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", [First(), Random(), HighestScore(key="s")], ids=["first", "random", "score"])
def test_eight_threads_never_get_the_same_image(tmp_path: Path, strategy: First | Random | HighestScore) -> None:
    studies = tmp_path / "many"
    studies.mkdir()
    data = put_image(studies, "n000.nii.gz").read_bytes()
    for number in range(1, 120):
        (studies / f"n{number:03}.nii.gz").write_bytes(data)
    store = LocalDatastore(studies)
    set_rules(store, Workflow(overlap_share=0))
    for number in range(120):
        store.update_image_info(f"n{number:03}", {"s": float(number % 7)})
    found: list[str] = []

    def choose(view: Datastore) -> Offer | None:
        chosen = strategy({"strategy": "x"}, view)
        return Offer(ImageId(chosen["id"])) if chosen else None

    def work(person: str) -> None:
        while isinstance(lease := store.work.take(Asking(person, resume=False), choose), Lease):
            if lease.image_id in mine[person]:
                return  # only his own are left
            mine[person].add(lease.image_id)
            found.append(lease.image_id)

    mine: dict[str, set[str]] = {f"p{n}": set() for n in range(8)}
    threads = [threading.Thread(target=work, args=(person,)) for person in mine]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    assert len(found) == len(set(found)) == 120


def test_leased_images_do_not_exist_for_a_strategy(store: LocalDatastore) -> None:
    given(store, "anna")
    view = store.offered_to("bea")
    assert "i0" not in view.list_images()
    assert "i0" not in view.get_unlabeled_images()
    assert "i0" in store.list_images()
    assert next(iter(view.unlabeled()))[0] == "i1"
    assert {image for image, _ in view.sample_unlabeled(20)} == {f"i{n}" for n in range(1, COUNT)}
