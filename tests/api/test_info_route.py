"""``/info/``, pages, health and the spelling of paths."""

from __future__ import annotations

import time

import pytest

from labelserver.contracts.engine import Readiness
from labelserver.domain.jobs import ALL_METHODS, JobKind, Signal
from tests.api.conftest import Make, World
from tests.fakes.fake_engine import described

BEGUN = (Signal.STARTED, Signal.RUNNING)


def test_r07_the_root_is_200(world: World) -> None:
    answer = world.http.get("/")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert world.http.head("/").status_code == 200


@pytest.mark.parametrize("path", ["/info", "/train", "/scoring", "/datastore", "/session", "/logs"])
def test_collections_answer_with_and_without_slash_and_never_redirect(world: World, path: str) -> None:
    method = "PUT" if path == "/session" else "GET"
    world.engine.jobs.happen((world.http.post("/train/segmentation")).json()["id"], *BEGUN)
    plain, slashed = (world.http.request(method, p) for p in (path, path + "/"))
    assert plain.status_code == slashed.status_code
    assert plain.status_code not in (301, 302, 307, 308, 405)


@pytest.mark.parametrize("path", ["/datastore/image/info/?image=ct_1", "/datastore/image/?image=ct_1", "/batch/infer/"])
def test_items_answer_with_a_slash_too(world: World, path: str) -> None:
    assert world.http.get(path).status_code == world.http.get(path.replace("/?", "?").removesuffix("/")).status_code


def test_unknown_query_parameters_are_tolerated(world: World) -> None:
    assert world.http.get("/info/?token=abc&x=1").status_code == 200


def test_unknown_paths_and_methods(world: World) -> None:
    assert world.http.get("/auth/").status_code == 404
    assert world.http.get("/auth/").json() == {"detail": "Not Found"}
    assert world.http.put("/info/").json() == {"detail": "Method Not Allowed"}


def test_the_document_joins_the_app_and_what_is_live(world: World) -> None:
    info = world.http.get("/info/").json()
    assert info["name"] == "Fake app"
    assert info["models"]["segmentation"]["labels"] == {"liver": 1, "spleen": 2}
    assert info["labels"] == ["liver", "spleen"]
    assert info["datastore"] == {"total": 2, "completed": 0, "label_tags": {}}
    assert info["train_stats"] == {"segmentation": {}}
    assert info["ready"] is True
    assert "config" not in info


def test_before_the_first_description_the_tables_are_empty_and_say_why(make_world: Make) -> None:
    world = make_world(described_yet=False)
    world.engine.ready = Readiness(ready=False, reason="")
    info = world.http.get("/info/").json()
    assert (info["models"], info["trainers"], info["labels"]) == ({}, {}, [])
    assert info["ready"] is False
    assert "loading" in info["message"]


def test_an_app_that_cannot_load_is_told(world: World) -> None:
    world.engine.ready = Readiness(ready=False, reason="main.py: no class is a LabelApp")
    info = world.http.get("/info/").json()
    assert (info["ready"], info["message"]) == (False, "main.py: no class is a LabelApp")
    answer = world.http.get("/readyz")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert "LabelApp" in answer.json()["detail"]


def test_health(world: World) -> None:
    assert world.http.get("/healthz").json()["status"] == "ok"
    assert world.http.get("/readyz").json() == {"status": "ready"}


def test_info_answers_within_milliseconds(world: World) -> None:
    world.http.get("/info/")
    best = min(_timed(world) for _ in range(5))
    assert best < 0.5


def _timed(world: World) -> float:
    begun = time.perf_counter()
    assert world.http.get("/info/").status_code == 200
    return time.perf_counter() - begun


def test_a_store_of_the_apps_own_is_asked_through_the_lead(make_world: Make) -> None:
    world = make_world(described(local_store=None))
    world.engine.lead["datastore.status"] = lambda params: {"total": 7, "completed": 3}
    info = world.http.get("/info/").json()
    assert info["datastore"] == {"total": 7, "completed": 3, "label_tags": {}}
    assert "store of its own" in " ".join(info["notes"])
    world.engine.ready = Readiness(ready=False, reason="starting")
    assert world.http.get("/info/").json()["datastore"]["total"] == 0


def test_train_stats_are_numbers_while_it_runs_and_after(world: World) -> None:
    job = world.http.post("/train/segmentation").json()["id"]
    world.engine.jobs.happen(job, *BEGUN)
    assert world.http.get("/info/").json()["train_stats"] == {"segmentation": {}}
    world.engine.jobs.happen(
        job,
        Signal.PROGRESS,
        epoch=2,
        total_epochs=5,
        best_metric=float("nan"),
        metrics={"val_mean_dice": 0.5},
        loss=None,
    )
    stats = world.http.get("/info/").json()["train_stats"]["segmentation"]
    assert (stats["epoch"], stats["total_epochs"], stats["best_metric"]) == (2, 5, 0.0)
    assert "total_time" not in stats
    assert stats["current_time"]
    assert stats["eval"]["metrics"] == {"val_mean_dice": 0.5}
    assert None not in stats.values()
    result = {"epoch": 5, "total_epochs": 5, "best_metric": 0.87, "start_ts": 1, "train": {}, "eval": {}}
    world.engine.jobs.happen(job, Signal.RESULT, **result)
    stats = world.http.get("/info/").json()["train_stats"]["segmentation"]
    assert stats["best_metric"] == 0.87
    assert stats["total_time"]
    assert "current_time" not in stats


def test_the_running_trainer_comes_first(make_world: Make) -> None:
    trainers = {name: {"description": "", "config": {}} for name in ("a", "b", "c")}
    world = make_world(described({"trainers": trainers}))
    for name in ("c", "b"):
        job = world.http.post(f"/train/{name}?enqueue=true").json()["id"]
        world.engine.jobs.happen(job, *BEGUN)
        if name == "c":
            world.engine.jobs.happen(job, Signal.RESULT)
    assert list(world.http.get("/info/").json()["train_stats"]) == ["b", "c", "a"]


def test_docs_and_schema_are_complete_and_need_no_network(world: World) -> None:
    schema = world.http.get("/openapi.json").json()
    for path in ("/info/", "/infer/{model}", "/train/", "/datastore/label", "/session/", "/api/v1/jobs"):
        assert path in schema["paths"]
    page = world.http.get("/docs").text
    assert "/activelearning/{strategy}" in page
    assert "https://" not in page


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/proxy/dicom/wado/studies/1/series"),
        ("POST", "/proxy/dicom/stow/studies"),
        ("GET", "/ohif/"),
        ("GET", "/ohif/assets/x.js"),
        ("POST", "/infer/wsi/nuclick?image=x&output=asap"),
        ("POST", "/infer/wsi_v2/nuclick"),
    ],
)
def test_routes_that_come_later_answer_501_with_a_sentence(world: World, method: str, path: str) -> None:
    answer = world.http.request(method, path)
    assert answer.status_code == 501
    assert "not there yet" in answer.json()["detail"]


def test_a_prefix_moves_the_peers_routes(make_world: Make) -> None:
    world = make_world(api_prefix="/label")
    assert world.http.get("/label/info").status_code == 200
    assert world.http.get("/label/info/").status_code == 200
    assert world.http.get("/label/").status_code == 200
    assert world.http.get("/info/").status_code == 404
    assert world.http.get("/healthz").status_code == 200


def test_the_engine_starts_and_stops_with_the_server(make_world: Make) -> None:
    world = make_world()
    assert world.engine.started
    assert not world.engine.stopped
    world.http.__exit__()
    assert world.engine.stopped
    world.http.__enter__()


def test_reload_restarts_the_workers(world: World) -> None:
    assert world.http.post("/reload").json() == {}
    assert world.engine.restarts == 1


def test_logs_are_a_page_or_a_tail(world: World) -> None:
    assert world.http.get("/logs/").status_code == 404
    log = world.roots.app / "logs" / "labelserver.log"
    log.write_text("".join(f"line {n} <b>\n" for n in range(500)))
    assert world.http.get("/logs/?lines=2&text=true").text == "line 498 <b>\nline 499 <b>\n"
    page = world.http.get("/logs/?refresh=1").text
    assert 'content="3"' in page
    assert "&lt;b&gt;" in page
    assert len(world.http.get("/logs/?lines=0&html=false").text.splitlines()) == 500


def test_gpu_without_a_driver_is_a_sentence(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    answer = world.http.get("/logs/gpu")
    assert answer.status_code == 501
    assert "nvidia-smi" in answer.json()["detail"]


def test_scoring_runs_once_at_the_start_and_after_each_training(make_world: Make) -> None:
    world = make_world(auto_update_scoring=True)

    def scorings() -> int:
        return len(world.engine.jobs.list(JobKind.SCORING))

    _until(lambda: scorings() == 1)
    first = world.engine.jobs.list(JobKind.SCORING)[0].spec
    assert (first.task, first.person) == (ALL_METHODS, "labelserver")
    world.engine.jobs.happen(first.job_id, *BEGUN, Signal.RESULT)
    job = world.http.post("/train/segmentation").json()["id"]
    world.engine.jobs.happen(job, *BEGUN, Signal.RESULT)
    _until(lambda: scorings() == 2)


def _until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
