"""Times, curve, advice and minutes saved over HTTP, and what ordinary requests tell about people's work."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from labelserver.app.proof import measure_some
from labelserver.cli.effort import draw_curve, in_words
from labelserver.cli.main import cli
from labelserver.client import LabelServerClient
from labelserver.contracts.model_store import Candidate
from labelserver.domain.infer import InferAnswer, InferRequest
from labelserver.domain.paths import Root
from labelserver.wire.proof import CurveShown
from tests.api.conftest import SHAPE, World, label_bytes, nifti
from tests.api.test_queue_routes import ask, rules, submit
from tests.support.served import Served

ANNA = {"X-Labelserver-Person": "anna"}


def pieces(world: World, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = world.http.get("/api/v1/time-log", params=query).json()["pieces"]
    return found


def add_versions(world: World, tmp_path: Path, points: dict[int, float]) -> None:
    """Versions of ``segmentation``: labels -> Dice."""
    for labels, value in points.items():
        weights = tmp_path / f"w{labels}.safetensors"
        weights.write_bytes(b"weights")
        world.server.model_store.add(
            Candidate(
                "segmentation",
                (weights,),
                key_metric="mean_dice",
                metrics={"mean_dice": value},
                cases={f"c{n}": {"mean_dice": value + 0.01 * (n - 1)} for n in range(3)},
                labels={f"i{n}": "x" for n in range(labels)},
            )
        )


def test_work_is_timed_from_lease_to_submission(world: World, tmp_path: Path) -> None:
    rules(world, overlap_share=0)
    ask(world, "anna", strategy="first")
    now = time.time()
    told = [
        {"kind": "open", "at": now - 300},
        {"kind": "edit", "at": now - 270},
        {"kind": "prompt", "at": now - 250},
        {"kind": "active", "at": now - 130},
    ]
    answer = world.http.post("/api/v1/images/ct_1/activity", json={"events": told}, headers=ANNA)
    assert answer.json() == {"noted": 4}
    submit(world, "anna", "ct_1", tmp_path)
    (piece,) = pieces(world, person="anna")
    assert piece["image"] == "ct_1"
    assert piece["edited_ts"] == pytest.approx(now - 270)
    assert piece["prompts"] == 1
    assert piece["active_s"] == pytest.approx(50, abs=5)
    assert piece["submitted_ts"] >= now
    assert piece["model"] == ""
    assert pieces(world, person="bea") == []
    people = world.http.get("/api/v1/benefit").json()["people"]
    assert [(p["person"], p["submitted"]) for p in people] == [("anna", 1)]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"events": []}, 422),
        ({"events": [{"kind": "sleep"}]}, 422),
        ({"events": [{"kind": "edit", "at": 5}]}, 422),
    ],
)
def test_activity_that_cannot_be_is_refused(world: World, body: dict[str, Any], code: int) -> None:
    assert world.http.post("/api/v1/images/ct_1/activity", json=body, headers=ANNA).status_code == code
    assert pieces(world) == []
    gone = world.http.post("/api/v1/images/none/activity", json={"events": [{"kind": "open"}]})
    assert gone.status_code == 404


def test_a_draft_shows_that_somebody_draws(world: World, tmp_path: Path) -> None:
    world.http.put(
        "/api/v1/images/ct_1/drafts/mine", files={"label": ("l.nii.gz", label_bytes(tmp_path))}, headers=ANNA
    )
    world.http.get("/api/v1/images/ct_1/volume", headers=ANNA)
    (piece,) = pieces(world)
    assert (piece["person"], piece["submitted_ts"]) == ("anna", None)
    assert piece["edited_ts"] is not None


def test_a_proposal_of_an_old_client_is_compared_with_its_label(world: World, tmp_path: Path) -> None:
    rules(world, overlap_share=0)
    proposed = np.zeros(SHAPE, np.uint8)
    proposed[1, 1, 1:3] = 1

    async def infer(request: InferRequest) -> InferAnswer:
        file = nifti(world.server.spool / "proposal.nii.gz", proposed)
        rooted = world.roots.relative(file, Root.STATE)
        return InferAnswer({"label_names": {"liver": 1}}, rooted, ".nii.gz", model_version="7")

    world.engine.infer = infer  # type: ignore[method-assign, assignment]
    ask(world, "anna", strategy="first")
    world.http.post("/infer/segmentation", params={"image": "ct_1", "output": "image"}, headers=ANNA)
    submit(world, "anna", "ct_1", tmp_path)
    measure_some(world.store)
    (piece,) = pieces(world)
    assert (piece["model"], piece["model_version"]) == ("segmentation", "7")
    assert (piece["voxels_changed"], piece["voxels"]) == (1, 2)
    assert piece["proposal_dice"] == pytest.approx(2 / 3)
    (done,) = world.http.get("/api/v1/benefit", params={"model": "segmentation"}).json()["versions"]
    assert (done["model"], done["version"], done["person"], done["submitted"]) == ("segmentation", "7", "anna", 1)
    assert (done["voxels_changed"], done["accepted"]) == (1, 0)
    assert done["proposal_dice"] == pytest.approx(2 / 3)
    assert world.spool_is_empty()


def test_the_learning_curve_is_told_with_a_forecast(world: World, tmp_path: Path) -> None:
    assert world.http.get("/api/v1/learning-curve").status_code == 404
    add_versions(world, tmp_path, {4: 0.5, 8: 0.65, 16: 0.75, 24: 0.78})
    curve = world.http.get("/api/v1/learning-curve").json()
    assert (curve["model"], curve["metric"]) == ("segmentation", "mean_dice")
    assert [(p["labels"], p["metric"]) for p in curve["points"]] == [(4, 0.5), (8, 0.65), (16, 0.75), (24, 0.78)]
    assert curve["points"][0]["error"] == pytest.approx(0.01 / np.sqrt(3))
    ahead = curve["by_labels"]
    assert (ahead["x"], ahead["step"]) == (24, 10)
    assert 0 < ahead["low"] <= ahead["gain"] <= ahead["high"] < 0.1
    assert curve["advice"]["stop"] is False
    assert [c["met"] for c in curve["advice"]["criteria"]] == [False, None, None]
    assert world.http.get("/api/v1/learning-curve", params={"model": "none"}).status_code == 404


def test_two_signs_say_stop(world: World, tmp_path: Path) -> None:
    add_versions(world, tmp_path, {10: 0.80, 40: 0.81, 80: 0.811, 120: 0.811})
    state = world.roots.state / "stability"
    state.mkdir()
    (state / "segmentation.json").write_text('{"same": 0.991, "version": 4}')
    advice = world.http.get("/api/v1/learning-curve").json()["advice"]
    assert advice["stop"] is True
    assert [c["met"] for c in advice["criteria"]] == [True, True, None]


def test_a_proposal_that_costs_time_is_reported(world: World, tmp_path: Path) -> None:
    with world.store._index.writing() as connection:
        for number in range(24):
            model, minutes = (("segmentation", "3"), 9 + number % 3) if number % 2 else (("", ""), 5 + number % 3)
            connection.execute(
                "INSERT INTO time_log (image_id, person, opened_ts, seen_ts, active_s, submitted_ts, model, "
                "model_version) VALUES (?, 'anna', 1, 1, ?, 2, ?, ?)",
                (f"i{number}", minutes * 60, *model),
            )
    (found,) = world.http.get("/api/v1/benefit", params={"model": "segmentation"}).json()["benefits"]
    assert (found["version"], found["saving"], found["pieces"]) == ("3", "costs", 12)
    assert found["saved"] == pytest.approx(-4, abs=0.6)
    assert "costs" in found["sentence"]


def test_the_command_line_tells_and_draws_it(world: World, tmp_path: Path) -> None:
    add_versions(world, tmp_path, {4: 0.5, 8: 0.65, 16: 0.75})
    rules(world, overlap_share=0)
    ask(world, "anna", strategy="first")
    submit(world, "anna", "ct_1", tmp_path)
    png = tmp_path / "plots" / "curve.png"
    with Served(world.http._app, world.http.portal) as served:
        run = CliRunner().invoke
        drawn = run(cli, ["effort", "curve", "--server", served.url, "--out", str(png)])
        assert drawn.exit_code == 0, drawn.output
        assert "The next 10 labels bring" in drawn.output
        assert "[?]" in drawn.output
        assert "ct_1" in run(cli, ["effort", "times", "--server", served.url]).output
        assert "anna" in run(cli, ["effort", "benefit", "--server", served.url]).output
        with LabelServerClient(served.url, person="bea") as client:
            assert client.next_image("first").status == "image"
            assert client.learning_curve().points[-1].labels == 16
            assert [p.person for p in client.time_log(image="ct_1")] == ["anna"]
            assert client.benefit().benefits == []
    with Image.open(png) as picture:
        assert picture.size == (1200, 480)
        assert len(picture.convert("L").getcolors() or []) > 10


def test_too_short_a_curve_is_drawn_without_promises(tmp_path: Path) -> None:
    shown = CurveShown.model_validate(
        {
            "model": "m",
            "metric": "dice",
            "points": [
                {"version": 1, "labels": 4, "hours": 0, "metric": 0.5, "error": None, "created_ts": 1},
            ],
            "by_labels": None,
            "by_hours": None,
            "advice": {"stop": False, "sentence": "Go on labeling.", "criteria": []},
        }
    )
    draw_curve(shown, tmp_path / "c.png")
    assert (tmp_path / "c.png").stat().st_size > 5000
    assert "Three versions" in in_words(shown)
