"""What the store keeps of scorings, and the orders that are made of it."""

from __future__ import annotations

import json
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from labelserver.contracts.scores import INTENSITY, Look, SmallMap
from labelserver.datastore import planning
from labelserver.datastore.local import LocalDatastore
from labelserver.datastore.planning import plan_key
from labelserver.datastore.queue import Asking
from labelserver.domain.ids import parse_image_id
from labelserver.domain.work import Offer
from labelserver.learning.choosing import CHOOSERS
from labelserver.tasks.planned import READY_MADE, Planned, learning_strategies
from labelserver.tasks.strategies import choose_next
from tests.support.study_folder import put_image, put_label


def make_store(folder: Path, count: int) -> LocalDatastore:
    for number in range(count):
        put_image(folder, f"i{number:02}.nii.gz")
    return LocalDatastore(folder, auto_reload=False, held_out_share=0.0)


def look(store: LocalDatastore, number: int, kind: str = "m", version: str = "1") -> Look:
    image_id = f"i{number:02}"
    chance = np.random.default_rng(number)
    content, signature = store.content_of(image_id)
    names = () if kind == INTENSITY else ("entropy", "margin", "bald", "foreground")
    scores = {name: float(chance.random()) for name in names}
    classes = tuple(chance.random(2).tolist()) if names else ()
    return Look(image_id, kind, version, content, signature, 1.0, scores, classes, tuple(chance.normal(size=6)))


def label(store: LocalDatastore, folder: Path, image_id: str) -> None:
    store.save_label(image_id, str(put_label(folder / "label.nii.gz", 1)), "final", {})


def test_a_look_comes_back_as_it_was_kept_and_after_a_restart(tmp_path: Path) -> None:
    store = make_store(tmp_path, 2)
    kept = look(store, 0)
    store.put_look(kept)
    found = LocalDatastore(tmp_path, auto_reload=False).look_at("i00")
    assert found is not None
    assert (found.kind, found.version, found.content, found.scores) == ("m", "1", kept.content, kept.scores)
    assert found.embedding == pytest.approx(kept.embedding, abs=1e-6)
    assert store.stale("m", "1", ["i00", "i01"]) == ["i01"]
    assert store.stale("m", "2", ["i00"]) == ["i00"]


def test_looks_are_columns_whatever_they_are_named_and_whatever_is_missing(tmp_path: Path) -> None:
    store = make_store(tmp_path, 3)
    odd = {"a b.$c": 0.25, "entropy": 0.5}
    store.put_look(replace(look(store, 0), scores=odd))
    store.put_look(replace(look(store, 1), scores={**odd, "entropy": float("nan")}, embedding=(1.0,)))
    store.put_look(replace(look(store, 2), scores={}, classes=()))
    columns = store._shelf.columns("m", "1")
    rows = [columns.rows[f"i0{number}"] for number in range(3)]
    np.testing.assert_array_equal(columns.scores["a b.$c"][rows], [0.25, 0.25, np.nan])
    np.testing.assert_array_equal(columns.scores["entropy"][rows], [0.5, np.nan, np.nan])
    assert [bool(np.isfinite(columns.embeddings[row]).all()) for row in rows] == [True, False, True]
    assert [bool(np.isfinite(columns.classes[row]).all()) for row in rows] == [True, True, False]
    empty = store._shelf.columns("m", "nobody's")
    assert (empty.rows, empty.scores, empty.embeddings.shape) == ({}, {}, (0, 0))


def test_a_small_map_comes_back_as_long_as_the_image_is_the_same(tmp_path: Path) -> None:
    store = make_store(tmp_path, 2)
    doubt = SmallMap((4, 5, 6), (4, 2, 2), bytes(range(16)))
    store.put_look(replace(look(store, 0), doubt=doubt))
    store.put_look(look(store, 1))
    again = LocalDatastore(tmp_path, auto_reload=False)
    assert again.doubt_in("i00") == doubt
    assert again.doubt_in("i01") is None
    store.put_look(look(store, 0, version="2"))
    assert again.doubt_in("i00") is None, "the newer look has none"
    store.put_look(replace(look(store, 1), doubt=doubt))
    put_image(tmp_path, "i01.nii.gz", shape=(2, 2, 2))
    assert again.doubt_in("i01") is None, "the file is another"


def test_a_score_file_without_maps_gets_room_for_them(tmp_path: Path) -> None:
    store = make_store(tmp_path, 1)
    store.put_look(look(store, 0))
    with sqlite3.connect(tmp_path / ".labelserver" / "scores.sqlite") as older:
        older.executescript("DROP TABLE doubts; PRAGMA user_version = 1")
    older.close()
    assert store.look_at("i00") is not None
    store.put_look(replace(look(store, 0), doubt=SmallMap((4, 5, 6), (1, 1, 1), b"a")))
    assert store.doubt_in("i00") is not None


def test_a_damaged_score_file_is_set_aside(tmp_path: Path) -> None:
    store = make_store(tmp_path, 1)
    store.put_look(look(store, 0))
    file = tmp_path / ".labelserver" / "scores.sqlite"
    for part in (file, file.with_name(file.name + "-wal"), file.with_name(file.name + "-shm")):
        part.unlink(missing_ok=True)
    file.write_bytes(b"nonsense" * 1000)
    assert store.look_at("i00") is None
    store.put_look(look(store, 0))
    assert store.look_at("i00") is not None
    assert list(file.parent.glob("scores.sqlite.damaged-*"))


def test_the_arg_max_is_given_out_as_soon_as_its_score_is_there(tmp_path: Path) -> None:
    store = make_store(tmp_path, 8)
    looks = [look(store, number) for number in range(8)]
    for one in looks:
        store.put_look(one)
    for name in ("entropy", "margin", "bald", "uncertain_slice", "uncertain_region"):
        best = max(looks, key=lambda one: one.scores[name if name in one.scores else "entropy"]).image_id
        assert choose_next(name, learning_strategies()[name], {}, store)["id"] == best


@pytest.mark.parametrize("name", [name for name, one in learning_strategies().items() if isinstance(one, Planned)])
def test_what_is_given_out_is_what_the_pure_function_chose(tmp_path: Path, name: str) -> None:
    store = make_store(tmp_path, 12)
    for number in range(12):
        store.put_look(look(store, number))
    store.plan(name)
    line = json.loads((tmp_path / ".labelserver" / "plans.jsonl").read_text().splitlines()[-1])
    expected = CHOOSERS[name].choose(store.learning_pool(), len(line["picks"]), line["seed"])
    assert line["picks"] == [pick.image_id for pick in expected]
    answer = choose_next(name, learning_strategies()[name], {}, store)
    assert (answer["id"], answer["why"]) == (expected[0].image_id, expected[0].reason)
    label(store, tmp_path, expected[0].image_id)
    assert choose_next(name, learning_strategies()[name], {}, store)["id"] == expected[1].image_id


def test_an_order_is_made_anew_with_new_scores_and_when_half_of_it_is_used_up(tmp_path: Path) -> None:
    store = make_store(tmp_path, 40)
    for number in range(40):
        store.put_look(look(store, number, INTENSITY))
    log = tmp_path / ".labelserver" / "plans.jsonl"

    def plans() -> int:
        store.plan("default")
        return len(log.read_text().splitlines())

    assert plans() == 1
    assert plans() == 1
    store.put_look(look(store, 3, INTENSITY, "2"))
    assert plans() == 2
    picks = json.loads(log.read_text().splitlines()[-1])["picks"]
    for image_id in picks[: len(picks) // 2 - 1]:
        label(store, tmp_path, image_id)
    assert plans() == 2
    for image_id in picks[len(picks) // 2 - 1 : len(picks) // 2 + 1]:
        label(store, tmp_path, image_id)
    assert plans() == 3


def test_a_new_model_is_followed_once_it_knows_more_images_than_the_old_one(tmp_path: Path) -> None:
    store = make_store(tmp_path, 6)
    for number in range(6):
        store.put_look(look(store, number))
    store.put_look(look(store, 0, version="2"))
    assert np.isfinite(store.learning_pool().score("entropy")).sum() == 5
    for number in range(6):
        store.put_look(look(store, number, version="2"))
    assert np.isfinite(store.learning_pool().score("entropy")).all()


def test_what_somebody_has_is_in_no_order_and_makes_room_for_others(tmp_path: Path) -> None:
    store = make_store(tmp_path, 30)
    for number in range(30):
        store.put_look(look(store, number, INTENSITY))
    store.plan("default")
    log = tmp_path / ".labelserver" / "plans.jsonl"
    first = json.loads(log.read_text())["picks"]
    for number, image_id in enumerate(first[:6]):
        store.work.queue.claim(Asking(f"p{number}"), Offer(parse_image_id(image_id), {}, None))
    store.plan("default")
    second = json.loads(log.read_text().splitlines()[-1])["picks"]
    assert len(log.read_text().splitlines()) == 2
    assert not set(first[:6]) & set(second)


def test_a_large_pool_is_planned_beside_the_one_who_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_AT_ONCE", 3)
    store = make_store(tmp_path, 8)
    made: list[str] = []
    monkeypatch.setattr(store._planner, "_in_background", made.append)
    answer = READY_MADE["Default"]()({}, store)
    store.plan("default")
    assert made == ["default"]
    assert isinstance(answer, dict)
    assert "worked out" in answer["why"]


def planned_beside(store: LocalDatastore) -> None:
    """Ask for the order of a large pool and wait for who makes it."""
    before = set(threading.enumerate())
    store.plan("default")
    for thread in set(threading.enumerate()) - before:
        thread.join()


def test_another_process_works_out_the_order_of_a_large_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path, 12)
    for number in range(12):
        store.put_look(look(store, number, INTENSITY))
    here = [pick.image_id for pick in store._planner.make("default")]
    monkeypatch.setattr(planning, "_AT_ONCE", 3)
    store.put_look(look(store, 0, INTENSITY))
    monkeypatch.setattr(planning, "_PATIENCE_S", 0)
    monkeypatch.setattr(store._planner, "make", lambda strategy: pytest.fail("made in the server"))
    planned_beside(store)
    lines = (tmp_path / ".labelserver" / "plans.jsonl").read_text().splitlines()
    assert [json.loads(line)["picks"] for line in lines] == [here, here]
    answer = READY_MADE["Default"]()({}, store)
    assert isinstance(answer, dict)
    assert answer["id"] == here[0]


def test_a_process_that_fails_is_told_in_the_log_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(planning, "_AT_ONCE", 3)
    store = make_store(tmp_path, 8)
    with monkeypatch.context() as broken:
        broken.setattr(planning.sys, "executable", str(tmp_path / "no-python"))
        planned_beside(store)
    assert "could not be planned" in caplog.text
    assert not (tmp_path / ".labelserver" / "plans.jsonl").exists()
    planned_beside(store)
    assert (tmp_path / ".labelserver" / "plans.jsonl").exists()


def test_a_person_to_whom_the_first_is_not_offered_gets_the_second(tmp_path: Path) -> None:
    store = make_store(tmp_path, 6)
    for number in range(6):
        store.put_look(look(store, number, INTENSITY))
    store.plan("default")
    order = json.loads((tmp_path / ".labelserver" / "plans.jsonl").read_text())["picks"]

    store.work.queue.claim(Asking("ada"), Offer(parse_image_id(order[0]), {}, None))
    answer = READY_MADE["Default"]()({}, store.offered_to("bob"))
    assert isinstance(answer, dict)
    assert answer["id"] == order[1]
    assert plan_key("default") == "plan.default"


def test_an_erased_image_leaves_nothing_in_the_score_file(tmp_path: Path) -> None:
    store = make_store(tmp_path, 2)
    store.put_look(look(store, 0))
    store.upkeep.erase(store.upkeep.plan_erasure("i00"), "ada")
    assert store.look_at("i00") is None
    assert b"i00" not in (tmp_path / ".labelserver" / "scores.sqlite").read_bytes()
