"""Choosing the next image: fair, deterministic where it should be, and recorded."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from labelserver.contracts.datastore import Datastore
from labelserver.datastore.local import LocalDatastore
from labelserver.domain.errors import TaskFailed
from labelserver.domain.splits import Side
from labelserver.imaging.volumes import write_volume
from labelserver.tasks.base import Strategy
from labelserver.tasks.strategies import READY_MADE, Epistemic, First, HighestScore, Last, Random, choose_next
from tests.fakes.memory_datastore import MemoryDatastore
from tests.support.study_folder import AFFINE, SHAPE, put_image, put_label


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Datastore:
    """Without and with lists that cost the same at any size: the answers are alike."""
    (tmp_path / "store").mkdir()
    made = MemoryDatastore(tmp_path / "store") if request.param == "memory" else LocalDatastore(tmp_path / "store")
    for name in ("b", "a", "c", "done"):
        file = put_image(tmp_path, f"{name}.nii.gz")
        made.add_image(name, str(file), {"name": file.name})
    made.save_label("done", str(put_label(tmp_path / "label.nii.gz")), "final", {})
    return made


def test_first_and_last_go_by_name_and_skip_what_is_done(store: Datastore) -> None:
    assert First()({}, store) == {"id": "a"}
    assert Last()({}, store) == {"id": "c"}


def test_random_reaches_every_unlabeled_image_and_reports_the_chosen_ones_weight(store: Datastore) -> None:
    store.update_image_info("a", {"strategy": {"random": {"ts": int(time.time()) - 50}}})
    store.update_image_info("b", {"strategy": {"random": {"ts": int(time.time()) + 10}}})
    store.update_image_info("c", {"strategy": {"random": {"ts": int(time.time()) - 50}}})
    seen: dict[str, int] = {}
    for _ in range(200):
        answer = Random()({}, store)
        assert answer is not None
        seen[answer["id"]] = answer["weight"]
    assert {"a", "c"} <= set(seen) <= {"a", "b", "c"}
    assert seen["a"] in (50, 51, 52)
    assert seen.get("b", 1) == 1


def test_the_best_score_wins_and_top_k_rotate(store: Datastore) -> None:
    for name, score in (("a", 0.1), ("b", 0.9), ("c", 0.8)):
        store.update_image_info(name, {"epistemic_entropy": score})
    assert HighestScore(k=1)({}, store)["id"] == "b"  # type: ignore[index]
    strategy = Epistemic(k=2)
    served = [choose_next("epistemic", strategy, {}, store)["id"] for _ in range(2)]
    assert served == ["b", "c"]
    store.update_image_info("a", {"epistemic_entropy": float("nan")})
    assert HighestScore(k=3)({}, store)["id"] == "b"  # type: ignore[index]


def test_when_all_were_handed_out_lately_the_one_handed_out_longest_ago_is_next(store: Datastore) -> None:
    now = int(time.time())
    for name, score, served in (("a", 0.1, now - 50), ("b", 0.9, now - 10), ("c", 0.8, now - 30)):
        store.update_image_info(name, {"epistemic_entropy": score, "strategy": {"epistemic": {"ts": served}}})
    assert Epistemic()({"strategy": "epistemic"}, store)["id"] == "a"  # type: ignore[index]
    assert Epistemic(k=2)({"strategy": "epistemic"}, store)["id"] == "c"  # type: ignore[index]
    assert Epistemic(reset=20)({"strategy": "epistemic"}, store)["id"] == "c"  # type: ignore[index]


def test_a_request_for_another_tag_or_for_names_is_answered_for_these(store: Datastore, tmp_path: Path) -> None:
    store.save_label("a", str(put_label(tmp_path / "label.nii.gz")), "draft", {})
    assert First()({"label_tag": "draft"}, store) == {"id": "b"}
    assert Last()({"label_tag": "draft"}, store) == {"id": "done"}
    assert Last()({"label_tag": "final", "labels": []}, store) == {"id": "c"}


def test_a_score_may_be_an_object_and_images_without_one_come_last(store: Datastore) -> None:
    store.update_image_info("c", {"my_score": {"score": 0.2, "ts": 1}})
    answer = HighestScore(key="my_score")({}, store)
    assert answer is not None
    assert (answer["id"], answer["my_score"]["score"]) == ("c", 0.2)
    assert HighestScore(key="nobody_has_it")({}, store) == {"id": "a"}


@pytest.mark.parametrize("cls", list(READY_MADE.values()))
def test_when_nothing_is_left_the_answer_is_empty(cls: type[Strategy], tmp_path: Path) -> None:
    assert choose_next("s", cls(), {}, MemoryDatastore(tmp_path)) == {}


class BareId(Strategy):
    def __call__(self, request: dict[str, Any], datastore: Datastore) -> str:
        return "b"


def test_r31_a_bare_id_becomes_a_document_with_path_and_name(store: Datastore) -> None:
    store.update_image_info("b", {"age": 50})
    answer = choose_next("mine", BareId(), {"client_id": "anna"}, store)
    assert (answer["id"], answer["name"], answer["age"]) == ("b", "b.nii.gz", 50)
    assert answer["path"] == store.get_image_uri("b")
    assert BareId().info() == {"description": "BareId"}


def test_every_choice_is_recorded_with_time_and_client(store: Datastore) -> None:
    choose_next("mine", BareId(), {"client_id": "anna"}, store)
    choose_next("first", First(), {}, store)
    choose_next("other", BareId(), {}, store)
    history = store.get_image_info("b")["strategy"]
    assert history["mine"]["client_id"] == "anna"
    assert abs(history["mine"]["ts"] - time.time()) < 60
    assert set(history) == {"mine", "other"}


def test_another_answer_is_an_error_that_names_the_strategy(store: Datastore) -> None:
    class Odd(Strategy):
        def __call__(self, request: dict[str, Any], datastore: Datastore) -> Any:
            return {"image": "b"}

    with pytest.raises(TaskFailed, match="The strategy odd must answer an image id"):
        choose_next("odd", Odd(), {}, store)


@pytest.mark.parametrize("strategy", [First(), Last(), Random(), HighestScore(k=2, key="score")])
def test_one_of_the_first_four_labels_is_of_a_held_out_image(strategy: Strategy, tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    for number in range(12):
        write_volume(_made(studies, f"ct_{number:02}.nii.gz"), _voxels(number), AFFINE, compress=True)
    store = LocalDatastore(studies)
    for number, image in enumerate(store.list_images()):
        store.update_image_info(image, {"score": number / 10})
    to_learn_from = [name for name, side in store.sides(store.list_images()).items() if side.side is Side.TRAINING]
    for image in to_learn_from[:3]:  # somebody picks by hand what is no good for measuring
        store.save_label(image, str(put_label(tmp_path / "label.nii.gz")), "final", {})
    answer = strategy({}, store)
    chosen = str(answer["id"] if isinstance(answer, dict) else answer)
    assert store.sides([chosen])[chosen].side is Side.HELD_OUT
    store.save_label(chosen, str(put_label(tmp_path / "label.nii.gz")), "final", {})
    assert First()({}, store) == {"id": next(name for name in store.list_images() if name not in _labeled(store))}


def test_where_no_held_out_image_is_left_the_others_are_handed_out(tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    for number in range(6):
        write_volume(_made(studies, f"ct_{number}.nii.gz"), _voxels(0), AFFINE, compress=True)  # one case, six names
    store = LocalDatastore(studies)
    for image in store.list_images()[:4]:
        store.save_label(image, str(put_label(tmp_path / "label.nii.gz")), "final", {})
    assert First()({}, store) == {"id": "ct_4"}


def _made(folder: Path, name: str) -> Path:
    folder.mkdir(exist_ok=True)
    return folder / name


def _voxels(content: int) -> NDArray[np.int16]:
    return (np.arange(np.prod(SHAPE)).reshape(SHAPE) + content).astype(np.int16)


def _labeled(store: LocalDatastore) -> list[str]:
    return store.get_labeled_images()
