"""Workers are killed, hang, and load broken apps; each costs at most one request. Real processes, a fake app."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from labelserver.domain.errors import (
    AppLoadFailed,
    DeviceMemoryFull,
    DiskFull,
    ImageNotFound,
    InvalidParams,
    TaskFailed,
    TaskNotFound,
    WorkerDied,
)
from labelserver.domain.infer import InferRequest, Priority
from labelserver.domain.paths import Root, RootedPath
from labelserver.engine import supervision
from labelserver.storage.processes import identity_of
from tests.support.local_engine import Place, until

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def ask(image="img", *, person="ann", priority=Priority.OPEN_IMAGE, **params):
    return InferRequest("segmentation", image_id=image, params=params, person=person, priority=priority)


async def test_an_inference_brings_its_file_and_plain_params(place):
    async with place.running() as engine:
        answer = await engine.infer(ask(flag=1))
        file = place.roots.resolve(answer.file)
        assert file.read_bytes() == b"mask"
        assert (answer.file.root, answer.ext) == (Root.STATE, ".nii.gz")
        assert answer.saved_label is None
        assert answer.params["label_names"] == {"liver": 1}
        assert answer.params["nan"] is None
        assert answer.params["array"] == [0, 1, 2]
        assert answer.params["thread"], "inference runs in the main thread"
        assert answer.params["request"] == {"flag": 1, "model": "segmentation", "image": "img"}
        assert answer.params["pid"] in engine.worker_pids


async def test_what_only_the_route_may_say_wins_over_params(place):
    upload = RootedPath(Root.STATE, "uploads/1/scan.nii.gz")
    scribbles = RootedPath(Root.STATE, "uploads/1/label.nrrd")
    request = InferRequest(
        "segmentation",
        image_file=upload,
        label_file=scribbles,
        session={"name": "s"},
        params={"model": "other", "image": "/etc/passwd", "label": "liver", "session": "x"},
    )
    async with place.running() as engine:
        seen = (await engine.infer(request)).params["request"]
        assert seen == {
            "model": "segmentation",
            "image": str(place.roots.resolve(upload)),
            "label": str(place.roots.resolve(scribbles)),
            "session": {"name": "s"},
        }
        clicked = (await engine.infer(ask(label="liver"))).params["request"]
        assert clicked["label"] == "liver", "without a label file the name of the active label stays"


async def test_a_saved_label_is_named(place):
    async with place.running() as engine:
        answer = await engine.infer(ask(save_label=True, label_tag="mine"))
        assert answer.saved_label == ("img", "mine")


@pytest.mark.parametrize(
    ("what", "error", "says"),
    [
        ("raise", TaskFailed, "The model segmentation failed with RuntimeError: the network is upside down"),
        ("memory", DeviceMemoryFull, "ran out of memory"),
        ("full", DiskFull, "no space left"),
        ("refuse", ImageNotFound, "There is no image x."),
        ("exit", TaskFailed, "SystemExit"),
        ("big", TaskFailed, "write it to a file"),
    ],
)
async def test_an_error_is_a_sentence_and_the_worker_lives_on(place, what, error, says):
    async with place.running() as engine:
        pids = engine.worker_pids
        with pytest.raises(error, match=says) as raised:
            await engine.infer(ask(do=what))
        assert "Traceback" not in raised.value.message
        assert (await engine.infer(ask())).file is not None
        assert engine.worker_pids == pids
    if what == "raise":
        assert "in _obey" in (place.roots.app / "logs" / "worker.log").read_text(), "the traceback is in the log"


async def test_an_unknown_model_is_not_found(place):
    async with place.running() as engine:
        with pytest.raises(TaskNotFound):
            await engine.infer(InferRequest("nope", image_id="img"))


async def test_a_worker_killed_during_an_inference_costs_that_request_alone(place):
    async with place.running() as engine:
        held = asyncio.ensure_future(engine.infer(ask(do="meet", name="x")))
        await place.at("x")
        waiting = asyncio.ensure_future(engine.infer(ask("next")))
        (old,) = engine.worker_pids
        os.kill(old, signal.SIGKILL)
        with pytest.raises(WorkerDied, match=r"signal 9, SIGKILL.*send the request again"):
            await held
        assert (await waiting).params["pid"] != old, "a request that was waiting goes to the new worker"
        assert (await engine.infer(ask())).file is not None


async def test_an_app_that_kills_its_own_process_costs_one_request(place):
    async with place.running() as engine:
        for _ in range(3):
            with pytest.raises(WorkerDied):
                await engine.infer(ask(do="die"))
            assert (await engine.infer(ask())).file is not None


async def test_an_idle_worker_that_was_killed_costs_nothing(place, monkeypatch):
    monkeypatch.setattr(supervision, "HEALTHY_AFTER_S", 0.0)  # each death is the first, so that no pause grows
    async with place.running() as engine:
        for _ in range(3):
            await until("readiness", lambda: engine.readiness().ready)
            os.kill(engine.worker_pids[0], signal.SIGKILL)
            assert (await engine.infer(ask())).file is not None
            os.kill(engine.worker_pids[0], signal.SIGKILL)
            assert (await engine.call_lead("next_sample", {"request": {}}))["id"] == "img"


async def test_clicks_come_first(place):
    async with place.running() as engine:
        held = asyncio.ensure_future(engine.infer(ask(do="meet", name="x")))
        await place.at("x")
        waiting = [
            asyncio.ensure_future(engine.infer(ask(priority=priority, name=priority.name)))
            for priority in (Priority.SCORING, Priority.BATCH, Priority.OPEN_IMAGE, Priority.CLICK)
        ]
        assert (await waiting[-1]).params["thread"] is False, "a click passes the running inference"
        assert not any(call.done() for call in (held, *waiting[:-1]))
        place.let_pass("x")
        await asyncio.gather(held, *waiting)
        inferred = [note for note in place.notes() if note.startswith("infer-")]
        assert inferred == ["infer-x"] + [f"infer-{priority.name}" for priority in sorted(Priority, key=int)]


async def test_cancelling_the_caller_cancels_the_inference(place):
    async with place.running() as engine:
        left = asyncio.ensure_future(engine.infer(ask(do="meet", name="x")))
        await place.at("x")
        pids = engine.worker_pids
        left.cancel()
        await until("the task sees the cancel", (place.roots.studies / "cancelled-x").exists)
        assert (await engine.infer(ask())).file is not None
        assert engine.worker_pids == pids
        assert left.cancelled()


async def test_an_answer_that_comes_too_late_leaves_no_file(place):
    async with place.running() as engine:
        left = asyncio.ensure_future(engine.infer(ask(do="stubborn", name="x")))
        await place.at("x")
        left.cancel()
        await asyncio.sleep(0)
        place.let_pass("x")
        answer = await engine.infer(ask())
        spool = place.roots.state / "spool"
        left_over = [path for path in spool.rglob("*") if path.is_file()]
        assert left_over == [place.roots.resolve(answer.file)]


async def test_a_cancelled_request_that_still_waited_is_never_run(place):
    async with place.running() as engine:
        held = asyncio.ensure_future(engine.infer(ask(do="meet", name="x")))
        await place.at("x")
        left = asyncio.ensure_future(engine.infer(ask(name="left")))
        await asyncio.sleep(0)
        left.cancel()
        place.let_pass("x")
        await held
        await engine.infer(ask())
        assert "infer-left" not in place.notes()


async def test_a_request_that_takes_too_long_is_ended_and_costs_its_worker_if_it_does_not_react(place, monkeypatch):
    monkeypatch.setattr(supervision, "CANCEL_GRACE_S", 0.2)
    place.settings["infer_timeout"] = 1
    async with place.running() as engine:
        (old,) = engine.worker_pids
        with pytest.raises(TaskFailed, match="longer than 1 s"):
            await engine.infer(ask(do="meet", name="listens"))
        assert engine.worker_pids == [old], "a task that listens does not cost the worker"
        with pytest.raises(TaskFailed, match="longer than 1 s"):
            await engine.infer(ask(do="stubborn", name="deaf"))
        assert (await engine.infer(ask())).params["pid"] != old


async def test_the_lead_answers_beside_a_running_inference(place):
    async with place.running() as engine:
        held = asyncio.ensure_future(engine.infer(ask(do="meet", name="x")))
        await place.at("x")
        assert (await engine.call_lead("next_sample", {"request": {"strategy": "random"}}))["thread"] == "lead"
        assert not held.done()
        place.let_pass("x")
        await held


async def test_the_lead_answers_what_the_server_asks(place):
    (place.roots.studies / "one.img").touch()
    (place.roots.studies / "two.img").touch()
    async with place.running() as engine:
        call = engine.call_lead
        assert await call("on_save_label", {"image_id": "a/b", "label_id": "l"}) == {"saved": "a/b/l"}
        assert await call("batch_images", {"params": {"images": "all"}}) == ["one", "two"]
        assert await call("batch_images", {"params": {"max_batch_size": 1}}) == ["one"]
        assert await call("model_file", {"model": "segmentation"}) == "model/segmentation.pt"
        assert await call("model_file", {"model": "nope"}) is None
        assert await call("model_info", {"model": "segmentation"}) == {"checksum": "SHA256:0"}
        assert await call("datastore.status", {}) == {"total": 2, "completed": 0}
        assert await call("datastore.get_image_info", {"args": ["one"]}) == {"id": "one", "score": 0.5}
        assert await call("datastore.get_image_info", {"kwargs": {"image_id": "two"}}) == {"id": "two", "score": 0.5}
        for method in ("datastore.__init__", "datastore._studies", "nope", "train"):
            with pytest.raises(InvalidParams):
                await call(method, {})


async def test_a_lead_call_that_takes_too_long_says_so_and_the_next_one_works(place):
    async with place.running() as engine:
        with pytest.raises(TaskFailed, match=r"within 0\.5 s"):
            await engine.call_lead("next_sample", {"request": {"do": "meet", "name": "x"}}, timeout_s=0.5)
        await until("the app sees the cancel", (place.roots.studies / "cancelled-x").exists)
        assert (await engine.call_lead("next_sample", {"request": {}}))["id"] == "img"


async def test_on_init_complete_runs_once_in_each_life_of_the_lead(place):
    async with place.running() as engine:
        await until("the hook", lambda: place.notes() == ["init-complete"])
        os.kill(engine.worker_pids[0], signal.SIGKILL)
        await until("the hook again", lambda: place.notes() == ["init-complete"] * 2)


async def test_requests_wait_for_the_app_to_load(place):
    barrier = place.roots.app / "load-barrier"
    barrier.touch()
    async with place.running(ready=False) as engine:
        readiness = engine.readiness()
        assert not readiness.ready
        assert "loading" in readiness.reason
        early = asyncio.ensure_future(engine.infer(ask()))
        call = asyncio.ensure_future(engine.call_lead("next_sample", {"request": {}}))
        await asyncio.sleep(0)
        barrier.unlink()
        assert (await early).file is not None
        assert (await call)["id"] == "img"


async def test_an_app_that_cannot_be_loaded_is_the_reason_and_is_tried_again_when_its_code_changes(place):
    broken = place.roots.app / "lib" / "broken.py"
    broken.write_text("main.py imports a module that does not exist.")
    async with place.running(ready=False) as engine:
        waiting = asyncio.ensure_future(engine.infer(ask()))
        with pytest.raises(AppLoadFailed, match="does not exist"):
            await waiting
        assert "does not exist" in engine.readiness().reason
        with pytest.raises(AppLoadFailed, match="does not exist"):
            await engine.infer(ask())
        with pytest.raises(AppLoadFailed):
            await engine.call_lead("next_sample", {"request": {}})
        broken.unlink()
        await until("the app is loaded", lambda: engine.readiness().ready)
        assert (await engine.infer(ask())).file is not None


async def test_workers_restart_on_demand_after_what_runs_has_finished(place):
    async with place.running() as engine:
        held = asyncio.ensure_future(engine.infer(ask(do="meet", name="x")))
        await place.at("x")
        (old,) = engine.worker_pids
        engine.restart_workers()
        after = asyncio.ensure_future(engine.infer(ask()))
        await until("the worker leaves service", lambda: not engine.readiness().ready)
        place.let_pass("x")
        assert (await held).params["pid"] == old
        assert (await after).params["pid"] != old


async def test_the_description_is_kept_for_the_next_start_with_the_same_code(place):
    assert place.engine().description() is None
    async with place.running() as engine:
        await until("the kept file", (place.roots.app / "description.json").exists)
        told = engine.description()
    kept = place.engine(code_hash="hash").description()
    assert kept is not None
    assert (kept.info, kept.overridden_hooks) == (told.info, told.overridden_hooks)
    assert place.engine(code_hash="other code").description() is None
    (place.roots.app / "description.json").write_text("{torn")
    assert place.engine(code_hash="hash").description() is None


async def test_several_workers_share_the_requests_and_one_leads(place):
    place.settings["workers_per_device"] = 2
    async with place.running() as engine:
        first = asyncio.ensure_future(engine.infer(ask("a", do="meet", name="a")))
        second = asyncio.ensure_future(engine.infer(ask("b", do="meet", name="b")))
        await place.at("a")
        await place.at("b")
        place.let_pass("a")
        place.let_pass("b")
        pids = {(await first).params["pid"], (await second).params["pid"]}
        assert len(pids) == 2
        await until("the lead's hook", lambda: "init-complete" in place.notes())
    assert place.notes().count("init-complete") == 1, "said by the lead alone, in the life of both"


async def test_stopping_the_engine_ends_its_workers(place):
    async with place.running() as engine:
        (pid,) = engine.worker_pids
        held = asyncio.ensure_future(engine.infer(ask(do="stubborn", name="x")))
        await place.at("x")
    assert identity_of(pid) is None
    with pytest.raises(WorkerDied):
        await held


DRIVER = """
import asyncio, sys
from pathlib import Path
from labelserver.domain.infer import InferRequest
from tests.support.local_engine import Place, until

async def main():
    place = Place(Path(sys.argv[1]))
    engine = place.engine()
    await engine.start()
    await until("readiness", lambda: engine.readiness().ready)
    print(engine.worker_pids[0], flush=True)
    await engine.infer(InferRequest("segmentation", image_id="a", params={"do": "stubborn", "name": "x"}))

asyncio.run(main())
"""


async def test_a_server_that_is_killed_leaves_no_worker_behind(place, tmp_path):
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as server:
        pid = int(await asyncio.to_thread(server.stdout.readline))
        await place.at("x")
        worker = identity_of(pid)
        assert worker is not None
        assert os.getsid(pid) == pid, "a session of its own: Ctrl-C in the terminal does not reach it"
        command = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        assert b"token" not in command.lower().replace(b"tokenizers", b"")
        server.kill()
    await until("the worker ends", lambda: identity_of(pid) != worker)


async def test_a_worker_that_speaks_something_else_is_dropped_and_started_again(place, tmp_path, caplog):
    engine = place.engine()
    liar = tmp_path / "liar.py"
    liar.write_text(
        "import json, socket, sys\n"
        "g = json.loads(sys.stdin.readline())\n"
        "from labelserver.engine.frames import Frame, FrameSocket\n"
        "s = FrameSocket.connect(g['socket'])\n"
        "s.write(Frame({'kind': 'hello', 'token': g['token']}))\n"
        "s._connection.sendall(b'HTTP/1.1 200 OK' * 10)\n"
        "s.read()\n"
    )
    engine._worker_command = (sys.executable, str(liar))
    await engine.start()
    try:
        await until("a line in the log", lambda: "broke the protocol" in caplog.text)
        await until("a reason", lambda: "ended" in engine.readiness().reason)
        assert not engine.readiness().ready
    finally:
        await engine.stop()


async def test_a_command_that_does_not_exist_is_a_reason(place):
    engine = place.engine()
    engine._worker_command = ("/nonexistent/python",)
    await engine.start()
    try:
        await until("a reason", lambda: "could not be started" in engine.readiness().reason)
    finally:
        await engine.stop()


async def test_the_socket_and_the_spool_are_not_left_behind(place):
    stale = place.roots.state / "spool" / "answer-of-an-earlier-server.nii.gz"
    stale.parent.mkdir(parents=True)
    stale.touch()
    async with place.running() as engine:
        assert not stale.exists()
        folder = Path(engine._listener.path).parent
        assert folder.exists()
    assert not folder.exists()
    assert json.loads((place.roots.app / "description.json").read_text())["code_hash"] == "hash"
