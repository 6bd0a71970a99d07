"""A batch goes image by image, remembers what is done, and ends at once when asked to."""

import asyncio

import pytest

from labelserver.domain.errors import QueueFull, TaskFailed, TaskNotFound, WorkerNotReady
from labelserver.domain.ids import JobId
from labelserver.domain.infer import InferAnswer, Priority
from labelserver.domain.jobs import JobKind, JobSpec, JobState, Signal
from labelserver.engine import batch as batch_module
from labelserver.engine.batch import Batch, BatchTools
from labelserver.engine.job_folder import JobFolder, JobView

pytestmark = pytest.mark.anyio


class Tools:
    """The engine, as a batch sees it."""

    def __init__(self, images=("a", "b", "c")):
        self.images = list(images)
        self.requests = []
        self.discarded = []
        self.lead_calls = []
        self.errors = {}
        self.at = asyncio.Event()
        self.hang_on = None
        self.was_cancelled = False

    async def infer(self, request):
        self.requests.append(request)
        if request.image_id == self.hang_on:
            self.at.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.was_cancelled = True
        error = self.errors.pop(request.image_id, None)
        if error is not None:
            raise error
        return InferAnswer({"n": 1}, saved_label=(f"label-{request.image_id}", "original"))

    async def call_lead(self, method, params):
        self.lead_calls.append((method, params))
        return self.images

    def tools(self):
        return BatchTools(self.infer, self.call_lead, self.discarded.append)


def make(tmp_path, tools, **params):
    spec = JobSpec(JobId("3f2b8c1e-0000-4000-8000-000000000002"), JobKind.BATCH_INFER, "m", params, "ann", 1.0)
    folder = JobFolder(tmp_path / spec.job_id)
    if not folder.path.exists():
        folder.create(spec)
    folder.say(Signal.STARTED, {})
    return Batch(folder, spec, tools.tools()), JobView(folder, spec)


async def run(batch, view):
    await batch.run()
    view.refresh()
    return view.record


async def test_the_app_says_which_images_and_each_is_one_low_request(tmp_path):
    tools = Tools(["a", "b"])
    record = await run(*make(tmp_path, tools, images="unlabeled", device="cpu", max_batch_size=0, multi_gpu=True))
    assert record.state is JobState.DONE
    assert record.result == {
        image: {"label": f"label-{image}", "tag": "original", "params": {"n": 1}} for image in ("a", "b")
    }
    assert tools.lead_calls[0][0] == "batch_images"
    assert [r.image_id for r in tools.requests] == ["a", "b"]
    assert {r.priority for r in tools.requests} == {Priority.BATCH}
    assert tools.requests[0].params == {"device": "cpu", "save_label": True, "label_tag": "original"}
    assert record.progress == {"done": 2, "total": 2, "image": "b"}
    assert record.details[-1] == "2/2 b: saved as label-b (original)"
    assert len(tools.discarded) == 2, "the files of the answers are removed"


async def test_named_images_are_taken_as_named(tmp_path):
    tools = Tools()
    record = await run(*make(tmp_path, tools, images=["y", "x", "z"], max_batch_size=2, label_tag="mine"))
    assert list(record.result) == ["x", "y"]
    assert tools.lead_calls == []
    assert tools.requests[0].params["label_tag"] == "mine"


async def test_an_image_that_fails_is_an_entry_and_not_the_end(tmp_path):
    tools = Tools(["a", "b"])
    tools.errors["a"] = TaskFailed("It is upside down.")
    record = await run(*make(tmp_path, tools))
    assert record.state is JobState.DONE
    assert record.result["a"] == {"error": "It is upside down."}
    assert record.result["b"]["label"] == "label-b"


async def test_a_batch_in_which_every_image_fails_has_failed(tmp_path):
    tools = Tools(["a"])
    tools.errors["a"] = TaskFailed("It is upside down.")
    record = await run(*make(tmp_path, tools))
    assert record.state is JobState.FAILED
    assert "None of the 1 images" in record.message


@pytest.mark.parametrize("error", [TaskNotFound("There is no model m."), WorkerNotReady("The app is loading.")])
async def test_without_model_or_worker_the_batch_fails_with_the_reason(tmp_path, error):
    tools = Tools()
    tools.errors["a"] = error
    record = await run(*make(tmp_path, tools, images=["a", "b"]))
    assert record.state is JobState.FAILED
    assert record.message == error.message
    assert len(tools.requests) == 1


async def test_a_full_queue_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_module, "BUSY_PAUSE_S", 0.0)
    tools = Tools(["a"])
    tools.errors["a"] = QueueFull("later")
    record = await run(*make(tmp_path, tools))
    assert record.state is JobState.DONE


async def test_no_images_is_done_at_once(tmp_path):
    record = await run(*make(tmp_path, Tools([])))
    assert (record.state, record.result) == (JobState.DONE, {})


async def test_a_stop_cancels_the_image_under_way_and_a_resume_goes_on_with_it(tmp_path):
    tools = Tools()
    tools.hang_on = "b"
    batch, view = make(tmp_path, tools, images="all")
    running = asyncio.ensure_future(batch.run())
    await asyncio.wait_for(tools.at.wait(), 10)
    view.folder.say(Signal.SUSPEND_ASKED, {})
    batch.ask_to_stop()
    await asyncio.wait_for(running, 10)
    view.refresh()
    assert view.record.state is JobState.SUSPENDED
    assert tools.was_cancelled

    later = Tools(["other images by now"])
    record = await run(*make(tmp_path, later, images="all"))
    assert record.state is JobState.DONE
    assert [r.image_id for r in later.requests] == ["b", "c"], "a is done, and the list is the one of the first start"
    assert sorted(record.result) == ["a", "b", "c"]
