"""``/api/v1/scores``, and that next images come from what is known, whoever scores."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from labelserver.api.background import score_all
from labelserver.contracts.quality import FoundOddity
from labelserver.contracts.scores import Look, SmallMap
from labelserver.domain.annotation import region_from_json
from labelserver.domain.jobs import ALL_METHODS, JobKind, Signal
from labelserver.domain.oddities import Finding, Oddity
from labelserver.imaging.thumbnails import overlay_png
from labelserver.imaging.volumes import read_grid
from tests.api.conftest import Make, World, label_bytes
from tests.fakes.fake_engine import described

BOB = {"X-Labelserver-Person": "bob"}
PNG = overlay_png(np.arange(20).reshape(4, 5), np.zeros((4, 5)))


def put(world: World, image_id: str, entropy: float, version: str = "1") -> Look:
    content, signature = world.store.content_of(image_id)
    scores = {"entropy": entropy, "margin": 0.1, "bald": 0.05, "foreground": 0.3}
    look = Look(image_id, "seg", version, content, signature, 7.0, scores, (0.1, 0.2), (1.0, 2.0), PNG)
    world.store.put_look(look)
    return look


def test_scores_their_version_and_the_map_are_shown(world: World) -> None:
    look = put(world, "ct_1", 0.4)
    shown = world.http.get("/api/v1/scores/ct_1").json()
    assert shown["scores"] == look.scores
    assert (shown["kind"], shown["version"], shown["content"]) == ("seg", "1", look.content)
    assert (shown["stale"], shown["picture"], shown["classes"]) == (False, True, [0.1, 0.2])
    picture = world.http.get("/api/v1/scores/map/ct_1")
    assert picture.headers["content-type"] == "image/png"
    assert picture.content == PNG
    overview = world.http.get("/api/v1/scores").json()
    assert overview["images"] == 2
    assert overview["kinds"] == [{"kind": "seg", "version": "1", "images": 1, "last_ts": 7.0, "current": True}]


def test_the_overview_names_what_images_can_be_sorted_by(world: World) -> None:
    assert world.http.get("/api/v1/scores").json()["names"] == []
    put(world, "ct_1", 0.4)
    world.store.update_image_info("ct_2", {"dice": 0.5, "comment": "a word", "epistemic": {"score": 0.1}})
    world.store.plan("entropy")
    names = world.http.get("/api/v1/scores").json()["names"]
    assert names == ["bald", "dice", "entropy", "epistemic", "foreground", "margin"]
    for name in names:
        assert world.http.get("/api/v1/images", params={"sort": name}).json()["images"], name


def test_a_changed_image_has_stale_scores(world: World) -> None:
    put(world, "ct_1", 0.4)
    file = world.roots.studies / "ct_1.nii.gz"
    file.write_bytes((world.roots.studies / "ct_2.nii.gz").read_bytes() + b"\0")
    assert world.http.get("/api/v1/scores/ct_1").json()["stale"] is True


def test_what_was_not_looked_at_is_404_with_advice(world: World) -> None:
    for path, word in (
        ("/api/v1/scores/ct_2", "has not been looked at"),
        ("/api/v1/scores/ct_2?model=seg", "by 'seg'"),
        ("/api/v1/scores/nobody", "no image"),
        ("/api/v1/scores/map/ct_2", "has not been looked at"),
    ):
        answer = world.http.get(path)
        assert answer.status_code == 404
        assert word in answer.json()["detail"]


def test_the_next_image_follows_the_newest_score_and_says_why(make_world: Make) -> None:
    names = {"default": {"description": "d"}, "entropy": {"description": "e"}}
    info = {**described().info, "strategies": names}
    world = make_world(described(info, ready_made_strategies={"default": "Default", "entropy": "Entropy"}))
    put(world, "ct_1", 0.1)
    put(world, "ct_2", 0.2)
    assert world.http.post("/activelearning/entropy", json={}).json()["id"] == "ct_2"
    given = world.http.post("/api/v1/queue/next", json={"strategy": "default"}, headers=BOB).json()
    order = json.loads((world.roots.state / "plans.jsonl").read_text())["picks"]
    assert given["image"]["id"] in order
    assert given["reason"]["why"]
    assert not world.engine.jobs.list(JobKind.SCORING)  # nobody scored because somebody asked


def test_odd_labels_are_listed_with_their_pictures(world: World) -> None:
    finding = Finding(Oddity.ISLAND, "liver", 0.7, 2, (1, 2, 2), "One small part.")
    world.http.put("/datastore/label?image=ct_1", files={"label": ("l.nii.gz", label_bytes(world.roots.app))})
    for image in ("ct_1", "ct_2"):
        world.store.put_quality(image, "k", [FoundOddity(image, finding, PNG)], {"liver": 10.0})
    (one,) = world.http.get("/api/v1/quality").json()["oddities"]  # the other image has no label any more
    assert (one["image"], one["kind"], one["center_ijk"]) == ("ct_1", "island", [1, 2, 2])
    assert world.http.get(one["picture"]).content == PNG
    assert world.http.get("/api/v1/quality?kind=hole").json() == {"oddities": []}
    assert world.http.get("/api/v1/quality?kind=nonsense").status_code == 422
    assert world.http.get("/api/v1/quality/999/picture").status_code == 404


def test_all_methods_are_one_job_that_is_not_queued_twice(make_world: Make) -> None:
    world = make_world(auto_update_scoring=False, scoring_budget_s=30)
    assert asyncio.run(score_all(world.server)) is True
    jobs = world.engine.jobs.list(JobKind.SCORING)
    assert [(job.spec.task, job.spec.params) for job in jobs] == [(ALL_METHODS, {"budget_s": 30.0})]
    assert asyncio.run(score_all(world.server)) is True  # it waits, and will see what is stale then
    world.engine.jobs.happen(str(jobs[0].spec.job_id), Signal.STARTED, Signal.RUNNING)
    assert asyncio.run(score_all(world.server)) is False  # it runs with the weights of before: asked again later
    assert len(world.engine.jobs.list(JobKind.SCORING)) == 1
    world.engine.jobs.happen(str(jobs[0].spec.job_id), Signal.RESULT)
    assert asyncio.run(score_all(world.server)) is True
    assert len(world.engine.jobs.list(JobKind.SCORING)) == 2


def test_an_app_that_scores_in_its_own_way_is_asked_by_name(make_world: Make) -> None:
    world = make_world(described(overridden_hooks=frozenset({"scoring"})), auto_update_scoring=False)
    asyncio.run(score_all(world.server))
    methods = set(described().info["scoring"])  # type: ignore[arg-type]
    assert {job.spec.task for job in world.engine.jobs.list(JobKind.SCORING)} == methods


def parts(make_world: Make) -> World:
    ready = {"uncertain_slice": "UncertainSlice", "uncertain_region": "UncertainRegion"}
    info = {**described().info, "strategies": {name: {"description": name} for name in ready}}
    return make_world(described(info, ready_made_strategies=ready))


def put_doubt(world: World, image_id: str) -> tuple[int, int, int]:
    """All of it in the last cell of each axis. Returns the image's shape."""
    look = put(world, image_id, 0.5)
    shape = read_grid(world.roots.studies / f"{image_id}.nii.gz").shape
    cells = np.zeros(shape, np.uint8)
    cells[-1, -1, -1] = 255
    world.store.put_look(replace(look, doubt=SmallMap(shape, shape, cells.tobytes())))
    return shape


def test_a_strategy_asks_for_the_slice_or_the_box_with_most_doubt(make_world: Make) -> None:
    world = parts(make_world)
    shape = put_doubt(world, "ct_2")
    axis = 2 - int(np.argmin(shape[::-1]))
    sample = world.http.post("/activelearning/uncertain_slice", json={"client_id": "ann"}).json()
    assert sample["id"] == "ct_2"
    assert sample["roi"] == {"kind": "slices", "axis": axis, "slices": [shape[axis] - 1]}
    assert region_from_json(sample["roi"])
    world = parts(make_world)
    put_doubt(world, "ct_1")
    sample = world.http.post("/activelearning/uncertain_region", json={"client_id": "ann"}).json()
    ((low, high),) = sample["roi"]["boxes"]
    assert (sample["id"], tuple(high)) == ("ct_1", shape)
    assert all(0 <= a < b for a, b in zip(low, high, strict=True))


def test_what_was_drawn_in_the_part_that_was_asked_for_is_kept_with_the_label(make_world: Make, tmp_path: Path) -> None:
    world = parts(make_world)
    put_doubt(world, "ct_2")
    ann = {"X-Labelserver-Person": "ann"}
    asked = {"strategy": "uncertain_slice", "params": {"slices": 2}}
    given = world.http.post("/api/v1/queue/next", json=asked, headers=ann).json()
    assert len(given["roi"]["slices"]) == 2
    assert "least sure" in given["reason"]["why"]
    files = {"label": ("label.nii.gz", label_bytes(tmp_path))}
    saved = world.http.put("/datastore/label?image=ct_2&tag=final", files=files, headers=ann)
    assert saved.status_code == 200, saved.text
    revision = world.http.get("/api/v1/images/ct_2/labels/final/revisions/1").json()
    assert revision["annotated"]["region"] == given["roi"]


def test_where_no_map_is_known_the_whole_image_is_asked_for(make_world: Make) -> None:
    world = parts(make_world)
    put(world, "ct_2", 0.5)
    sample = world.http.post("/activelearning/uncertain_slice", json={"client_id": "ann"}).json()
    assert sample["id"] == "ct_2"
    assert sample.get("roi") is None


def test_a_number_of_slices_that_makes_no_sense_is_refused_and_nothing_is_leased(make_world: Make) -> None:
    world = parts(make_world)
    put_doubt(world, "ct_2")
    for wrong in ("many", 0):
        refused = world.http.post("/activelearning/uncertain_slice", json={"slices": wrong})
        assert refused.status_code == 422
        assert "slices" in refused.json()["detail"]
    assert world.http.get("/api/v1/queue/leases").json()["leases"] == []
