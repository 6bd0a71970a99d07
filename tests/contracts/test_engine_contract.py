"""What every engine promises, asked of the one with processes and of the stand-in alike."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from labelserver.contracts.engine import Engine
from labelserver.domain.errors import IllegalTransition, JobNotFound, LabelServerError, QueueFull
from labelserver.domain.ids import JobId
from labelserver.domain.infer import InferRequest
from labelserver.domain.jobs import JobKind, JobState, Signal
from tests.fakes.fake_engine import FakeEngine, described
from tests.support.local_engine import Place, until

pytestmark = pytest.mark.anyio

#: a training that goes on until it is stopped
LONG = {"do": "meet", "name": "long"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Real:
    """`LocalEngine` around the fake app."""

    def __init__(self, folder):
        self.place = Place(folder)

    def running(self):
        return self.place.running()

    async def ended(self, engine, record):
        """The job has done what it was asked for."""
        self.place.let_pass("long")
        return await asyncio.wait_for(engine.jobs.wait(record.spec.job_id), 30)


class Fake:
    """The stand-in; this class moves its jobs."""

    def __init__(self, folder):
        self.place = Place(folder)

    @asynccontextmanager
    async def running(self):
        engine = FakeEngine(self.place.roots, described())
        await engine.start()
        yield engine
        await engine.stop()

    async def ended(self, engine, record):
        engine.jobs.happen(record.spec.job_id, Signal.STARTED, Signal.RUNNING, Signal.RESULT)
        return await engine.jobs.wait(record.spec.job_id)


@pytest.fixture(params=[pytest.param(Real, marks=pytest.mark.slow), Fake])
def kind(request, tmp_path):
    return request.param(tmp_path)


async def test_it_is_an_engine(kind):
    async with kind.running() as engine:
        checked: Engine = engine
        assert checked.readiness().ready
        assert checked.description() is not None


async def test_an_answers_file_lies_in_the_spool_and_belongs_to_the_receiver(kind):
    async with kind.running() as engine:
        first, second = [await engine.infer(InferRequest("segmentation", image_id="a")) for _ in range(2)]
        files = [kind.place.roots.resolve(answer.file) for answer in (first, second)]
        assert files[0] != files[1]
        for file, answer in zip(files, (first, second), strict=True):
            assert file.parent == kind.place.roots.state / "spool"
            assert file.name.endswith(answer.ext)
            assert isinstance(answer.params["label_names"], dict)


async def test_the_lead_refuses_what_it_does_not_know(kind):
    async with kind.running() as engine:
        with pytest.raises(LabelServerError):
            await engine.call_lead("no_such_method", {})


async def test_a_job_is_known_from_its_submission_on(kind):
    async with kind.running() as engine:
        record = await engine.jobs.submit(JobKind.TRAIN, "segmentation", LONG, "ann")
        spec = record.spec
        assert (spec.kind, spec.task, spec.params, spec.person) == (JobKind.TRAIN, "segmentation", LONG, "ann")
        assert not record.state.is_final
        assert engine.jobs.get(spec.job_id).spec == spec
        assert [known.spec for known in engine.jobs.list()] == [spec]
        assert engine.jobs.list(JobKind.SCORING) == []
        ended = await kind.ended(engine, record)
        assert ended.state is JobState.DONE
        assert engine.jobs.get(spec.job_id).state is JobState.DONE


async def test_a_second_job_of_a_kind_is_refused_or_queued(kind):
    async with kind.running() as engine:
        first = await engine.jobs.submit(JobKind.TRAIN, "segmentation", LONG, "ann")
        with pytest.raises(QueueFull):
            await engine.jobs.submit(JobKind.TRAIN, "segmentation", {}, "ann")
        second = await engine.jobs.submit(JobKind.TRAIN, "segmentation", {}, "ann", enqueue=True)
        assert second.state is JobState.QUEUED
        assert [known.spec.job_id for known in engine.jobs.list()] == [first.spec.job_id, second.spec.job_id]
        stopped = await engine.jobs.stop(second.spec.job_id)
        assert stopped.state is JobState.STOPPED
        assert (await engine.jobs.wait(second.spec.job_id)).state is JobState.STOPPED
        await kind.ended(engine, first)


async def test_a_job_that_has_ended_cannot_be_stopped(kind):
    async with kind.running() as engine:
        record = await engine.jobs.submit(JobKind.TRAIN, "segmentation", LONG, "ann")
        await kind.ended(engine, record)
        with pytest.raises(IllegalTransition):
            await engine.jobs.stop(record.spec.job_id)


async def test_an_unknown_job_is_not_found(kind):
    unknown = JobId("3f2b8c1e-0000-4000-8000-00000000dead")
    async with kind.running() as engine:
        with pytest.raises(JobNotFound):
            engine.jobs.get(unknown)
        for call in (engine.jobs.stop, engine.jobs.wait):
            with pytest.raises(JobNotFound):
                await call(unknown)


async def test_a_wait_that_is_cancelled_leaves_the_job_alone(kind):
    async with kind.running() as engine:
        record = await engine.jobs.submit(JobKind.TRAIN, "segmentation", LONG, "ann")
        waiting = asyncio.ensure_future(engine.jobs.wait(record.spec.job_id))
        await asyncio.sleep(0)
        waiting.cancel()
        await until("the cancel", waiting.done)
        assert (await kind.ended(engine, record)).state is JobState.DONE
