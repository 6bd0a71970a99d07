"""``/train``, ``/scoring``, ``/batch/infer`` and ``/api/v1/jobs`` (R-32 to R-34)."""

from __future__ import annotations

import asyncio
import re

import pytest

from labelserver.domain.jobs import JobKind, JobRecord, Signal
from tests.api.conftest import Make, World
from tests.fakes.fake_engine import described

BEGUN = (Signal.STARTED, Signal.RUNNING)
FAMILIES = [
    ("/train/segmentation", "/train/", "Train"),
    ("/scoring/dice", "/scoring/", "Scoring"),
    ("/batch/infer/segmentation", "/batch/infer", "Batch_infer"),
]


@pytest.mark.parametrize(("start", "family", "title"), FAMILIES)
def test_a_task_lives_through_the_peers_words(world: World, start: str, family: str, title: str) -> None:
    assert world.http.get(family).json() == {"detail": f"No {title} Tasks Found"}
    assert world.http.get(family).status_code == 404
    task = world.http.post(start).json()
    assert task["status"] == "SUBMITTED"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", task["start_ts"])
    assert "details" not in task
    assert "end_ts" not in task
    world.engine.jobs.happen(task["id"], *BEGUN)
    assert world.http.get(family).json()["status"] == "RUNNING"
    world.engine.jobs.happen(task["id"], Signal.LOG, line="epoch 1")
    world.engine.jobs.happen(task["id"], Signal.RESULT, best=float("nan"))
    done = world.http.get(family).json()
    assert (done["status"], done["details"], done["result"]) == ("DONE", ["epoch 1"], {"best": None})
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", done["end_ts"])


@pytest.mark.parametrize("signals", [(Signal.STARTED,), BEGUN, (*BEGUN, Signal.STOP_ASKED)])
def test_r32_everything_between_start_and_end_is_running(world: World, signals: tuple[Signal, ...]) -> None:
    task = world.http.post("/train/segmentation").json()
    world.engine.jobs.happen(task["id"], *signals)
    assert world.http.get("/train/").json()["status"] == "RUNNING"


def test_r32_the_running_task_is_shown_before_later_ones(world: World) -> None:
    first = world.http.post("/train/segmentation").json()
    world.engine.jobs.happen(first["id"], *BEGUN)
    world.http.post("/train/segmentation?enqueue=true")
    assert world.http.get("/train/").json()["id"] == first["id"]
    assert len(world.http.get("/train/?all=true").json()) == 2


def test_a_suspended_task_waits(world: World) -> None:
    task = world.http.post("/train/segmentation").json()
    world.engine.jobs.happen(task["id"], *BEGUN, Signal.SUSPEND_ASKED)
    assert world.http.get("/train/").json()["status"] == "SUBMITTED"


@pytest.mark.parametrize(("start", "family", "title"), FAMILIES)
def test_r33_stopping_nothing_is_null_and_stopping_something_has_details(
    world: World, start: str, family: str, title: str
) -> None:
    assert world.http.delete(family).content == b"null"
    task = world.http.post(start).json()
    world.engine.jobs.happen(task["id"], *BEGUN)
    stopped = world.http.delete(family)
    assert stopped.status_code == 200
    assert stopped.json()["id"] == task["id"]
    assert stopped.json()["details"]
    assert stopped.json()["start_ts"]


@pytest.mark.parametrize(("start", "family", "title"), FAMILIES)
def test_r34_check_if_running_is_200_exactly_while_something_runs(
    world: World, start: str, family: str, title: str
) -> None:
    check = f"{family}?check_if_running=true"
    assert world.http.get(check).json() == {"detail": f"No {title} Tasks are currently Running"}
    task = world.http.post(start).json()
    assert world.http.get(check).status_code == 404
    world.engine.jobs.happen(task["id"], *BEGUN)
    assert world.http.get(check).json()["status"] == "RUNNING"
    world.engine.jobs.happen(task["id"], Signal.RESULT)
    assert world.http.get(check).status_code == 404


@pytest.mark.parametrize(("start", "family", "title"), FAMILIES)
def test_a_second_task_is_429_and_says_so(world: World, start: str, family: str, title: str) -> None:
    world.http.post(start)
    answer = world.http.post(start)
    assert answer.status_code == 429
    assert answer.json()["detail"].startswith(f"++++++++++ {title} Task is Already Running")
    assert answer.headers["retry-after"]


def test_a_training_may_be_queued(world: World) -> None:
    world.http.post("/train/segmentation")
    assert world.http.post("/train/segmentation?enqueue=true").json()["status"] == "SUBMITTED"


def test_a_failed_task_tells_why(world: World) -> None:
    task = world.http.post("/train/segmentation").json()
    world.engine.jobs.happen(task["id"], *BEGUN, Signal.FAILED, reason="no_data", message="No labeled image.")
    answer = world.http.get("/train/").json()
    assert (answer["status"], answer["details"]) == ("ERROR", ["No labeled image."])


@pytest.mark.parametrize(
    ("url", "known"),
    [
        ("/train/none", "segmentation"),
        ("/scoring/none", "dice"),
        ("/batch/infer/none", "deepedit, segmentation"),
        ("/activelearning/none", "first, own, random"),
    ],
)
def test_unknown_tasks_are_404_with_the_names_that_exist(world: World, url: str, known: str) -> None:
    answer = world.http.post(url)
    assert answer.status_code == 404
    assert f"Known: {known}." in answer.json()["detail"]
    assert not world.engine.jobs.list()


@pytest.mark.parametrize(
    "params",
    [
        {"name": "../../x"},
        {"name": 3},
        {"model": "other"},
        {"val_ds": "/etc/passwd"},
        {"train_ds": "/etc/passwd"},
        {"bundle_path": "/x"},
        {"tracking_uri": "http://evil.example"},
        {"label_tag": "a/b"},
    ],
)
def test_training_options_cannot_name_files_or_services(world: World, params: dict) -> None:
    answer = world.http.post("/train/segmentation", json=params)
    assert answer.status_code == 422
    assert not world.engine.jobs.list()


def test_the_options_that_info_offers_may_be_sent_back(make_world: Make) -> None:
    config = {"name": "train_01", "tracking": ["mlflow", "None"], "tracking_uri": "file:/x", "max_epochs": 50}
    world = make_world(described({"trainers": {"segmentation": {"config": config}}}))
    sent = {**config, "tracking": "mlflow", "client_id": "user-xyz", "model": "segmentation"}
    assert world.http.post("/train/segmentation", json=sent).status_code == 200
    spec = world.engine.jobs.list()[0].spec
    assert (spec.params["tracking_uri"], spec.person) == ("file:/x", "user-xyz")
    assert "model" not in spec.params


def test_all_trainers_start_one_behind_the_other(make_world: Make) -> None:
    trainers = {name: {"config": {}} for name in ("a", "b")}
    world = make_world(described({"trainers": trainers}))
    answer = world.http.post("/train/", json={"a": {"max_epochs": 1}, "gpus": "all"})
    assert answer.status_code == 200
    result = answer.json()
    assert result["a"]["result"]["request"] == {"model": "a", "gpus": "all", "max_epochs": 1}
    assert result["b"]["result"]["request"] == {"model": "b", "gpus": "all"}
    assert result["a"]["detail"] is None


def test_all_trainers_with_bad_options_start_nothing(world: World) -> None:
    assert world.http.post("/train/", json={"segmentation": [1]}).status_code == 422
    assert not world.engine.jobs.list()


def test_all_trainers_of_an_app_without_any(make_world: Make) -> None:
    world = make_world(described({"trainers": {}, "scoring": {}}))
    assert world.http.post("/train/").status_code == 404
    assert world.http.post("/scoring/").status_code == 404


def test_all_tasks_before_the_app_is_known_are_told_to_wait(make_world: Make) -> None:
    world = make_world(described_yet=False)
    for url in ("/train/", "/scoring/"):
        answer = world.http.post(url)
        assert answer.status_code == 429
        assert "loading" in answer.json()["detail"]


def test_all_scoring_methods_start(world: World) -> None:
    assert world.http.post("/scoring/").json()["dice"]["result"]["request"] == {"method": "dice"}


def finishing(world: World, *signals: Signal, **data: object) -> None:
    def on_submit(record: JobRecord) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: world.engine.jobs.happen(record.spec.job_id, *signals, **data))

    world.engine.jobs.on_submit = on_submit


@pytest.mark.parametrize(("start", "family", "title"), FAMILIES)
def test_run_sync_waits_and_gives_the_result(world: World, start: str, family: str, title: str) -> None:
    finishing(world, *BEGUN, Signal.RESULT, ct_1={"label": "ct_1", "tag": "original"})
    assert world.http.post(f"{start}?run_sync=true").json() == {"ct_1": {"label": "ct_1", "tag": "original"}}


def test_run_sync_of_a_failing_task_tells_why(world: World) -> None:
    finishing(world, *BEGUN, Signal.FAILED, message="No labeled image.")
    answer = world.http.post("/train/segmentation?run_sync=true")
    assert answer.status_code == 500
    assert "No labeled image." in answer.json()["detail"]


def test_batch_without_body_has_the_documented_defaults(world: World) -> None:
    world.http.post("/batch/infer/segmentation?images=unlabeled")
    params = world.engine.jobs.list(JobKind.BATCH_INFER)[0].spec.params
    assert params["images"] == "unlabeled"
    assert (params["save_label"], params["label_tag"], params["max_workers"]) == (True, "original", 1)


def test_a_body_replaces_the_defaults_and_may_list_images(world: World) -> None:
    world.http.post("/batch/infer/segmentation", json={"images": ["ct_1"]})
    assert world.engine.jobs.list(JobKind.BATCH_INFER)[0].spec.params == {"images": ["ct_1"]}


@pytest.mark.parametrize("images", [["../x"], "everything", 3, [1]])
def test_batch_over_what_is_no_image_is_422(world: World, images: object) -> None:
    assert world.http.post("/batch/infer/segmentation", json={"images": images}).status_code == 422
    assert not world.engine.jobs.list()


def test_batch_inference_can_be_switched_off(make_world: Make) -> None:
    world = make_world(tasks_batch_infer=False)
    assert world.http.post("/batch/infer/segmentation").status_code == 422


def test_v1_jobs_tell_everything(world: World) -> None:
    task = world.http.post("/train/segmentation", json={"max_epochs": 2}).json()
    world.engine.jobs.happen(task["id"], *BEGUN)
    world.engine.jobs.happen(task["id"], Signal.PROGRESS, epoch=1, loss=0.5)
    job = world.http.get(f"/api/v1/jobs/{task['id']}").json()
    assert (job["id"], job["kind"], job["task"], job["state"]) == (task["id"], "train", "segmentation", "running")
    assert job["progress"] == {"epoch": 1, "loss": 0.5}
    assert job["params"] == {"max_epochs": 2}
    assert world.http.get("/api/v1/jobs?kind=train&state=running").json() == {"jobs": [job]}
    assert world.http.get("/api/v1/jobs?kind=scoring").json() == {"jobs": []}


def test_v1_jobs_can_be_stopped_once(world: World) -> None:
    task = world.http.post("/train/segmentation").json()
    assert world.http.post(f"/api/v1/jobs/{task['id']}/stop").json()["state"] == "stopped"
    answer = world.http.post(f"/api/v1/jobs/{task['id']}/stop")
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "IllegalTransition"


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("/api/v1/jobs/x", 422),
        ("/api/v1/jobs/00000000-0000-4000-8000-0000000000ff", 404),
        ("/api/v1/jobs?kind=none", 422),
        ("/api/v1/none", 404),
    ],
)
def test_v1_errors_are_problem_documents(world: World, url: str, status: int) -> None:
    answer = world.http.get(url)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert answer.json()["detail"]
