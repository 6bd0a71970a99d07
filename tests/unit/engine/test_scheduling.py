"""Who is next, and what becomes of those who leave."""

import asyncio

import pytest

from labelserver.domain.errors import QueueFull, TaskFailed, WorkerDied
from labelserver.domain.infer import InferAnswer, InferRequest, Priority
from labelserver.domain.interaction import SessionCall, SessionVerb
from labelserver.engine.scheduling import RequestQueue, Scheduler, Ticket

pytestmark = pytest.mark.anyio


def ask(name, person="ann", priority=Priority.OPEN_IMAGE):
    return InferRequest("m", image_id=name, person=person, priority=priority)


def click(session, image="img", verb=SessionVerb.PROMPT, person="ann"):
    return SessionCall(session, verb, "m", person, image_id=image)


def order_of(queue):
    """The image ids in the order in which workers would take them."""
    taken = []
    while len(queue):
        ticket = queue.in_order()[0]
        queue.take(ticket)
        taken.append(ticket.request.image_id)
    return taken


class HandRunner:
    """A worker whose requests end when the test says so."""

    def __init__(self):
        self.ready = True
        self.running = {}
        self.seen = []
        self.discarded = []

    async def run(self, request, cancelled, on_partial=None):
        future = asyncio.get_running_loop().create_future()
        name = request.session if isinstance(request, SessionCall) else request.image_id
        self.running[name] = (future, cancelled)
        self.seen.append(name)
        try:
            return await future
        finally:
            del self.running[name]

    def discard(self, answer):
        self.discarded.append(answer)

    async def finish(self, name, error=None):
        future, _ = self.running[name]
        answer = InferAnswer({"name": name})
        if error:
            future.set_exception(error)
        else:
            future.set_result(answer)
        await turns()
        return answer


async def turns():
    """Let everything that can go on go on."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_smaller_priority_goes_first_whenever_it_came():
    queue = RequestQueue()
    for number, priority in enumerate([Priority.SCORING, Priority.BATCH, Priority.CLICK, Priority.OPEN_IMAGE]):
        queue.put(Ticket(ask(priority.name, priority=priority), number))
    assert order_of(queue) == ["CLICK", "OPEN_IMAGE", "BATCH", "SCORING"]


async def test_persons_take_turns_and_keep_their_own_order():
    queue = RequestQueue()
    for number, name in enumerate(["a1", "a2", "a3", "b1", "b2", "c1"]):
        queue.put(Ticket(ask(name, person=name[0]), number))
    assert order_of(queue) == ["a1", "b1", "c1", "a2", "b2", "a3"]


async def test_a_full_queue_says_so():
    queue = RequestQueue(limit=2)
    queue.put(Ticket(ask("1"), 1))
    queue.put(Ticket(ask("2", person="ben"), 2))
    with pytest.raises(QueueFull, match="2 inference requests are waiting"):
        queue.put(Ticket(ask("3", person="cem"), 3))


async def test_nobody_fills_the_queue_alone():
    queue = RequestQueue(limit=10, limit_per_person=1)
    queue.put(Ticket(ask("1"), 1))
    with pytest.raises(QueueFull, match="yours"):
        queue.put(Ticket(ask("2"), 2))
    queue.put(Ticket(ask("3", person="ben"), 3))


async def test_a_worker_runs_one_request_at_a_time():
    scheduler, runner = Scheduler(), HandRunner()
    scheduler.add(runner)
    first, second = scheduler.submit(ask("1")), scheduler.submit(ask("2"))
    await turns()
    assert list(runner.running) == ["1"]
    await runner.finish("1")
    assert (await first.answer).params == {"name": "1"}
    assert list(runner.running) == ["2"]
    await runner.finish("2")
    assert (await second.answer).params == {"name": "2"}


async def test_two_workers_run_two_requests_and_an_image_returns_to_its_worker():
    scheduler, one, two = Scheduler(), HandRunner(), HandRunner()
    scheduler.add(one)
    scheduler.add(two)
    scheduler.submit(ask("x"))
    scheduler.submit(ask("y"))
    await turns()
    assert (list(one.running), list(two.running)) == (["x"], ["y"])
    await one.finish("x")
    await two.finish("y")
    scheduler.submit(ask("y"))
    await turns()
    assert list(two.running) == ["y"], "the worker that has the image in memory takes it"
    await two.finish("y")


async def test_leaving_takes_a_waiting_request_out_of_the_queue():
    scheduler, runner = Scheduler(), HandRunner()
    scheduler.add(runner)
    scheduler.submit(ask("1"))
    waiting = scheduler.submit(ask("2"))
    scheduler.leave(waiting)
    assert scheduler.waiting == 0
    await turns()
    await runner.finish("1")
    assert runner.seen == ["1"]


async def test_leaving_cancels_a_running_request_but_its_worker_stays_busy_until_it_ends():
    scheduler, runner = Scheduler(), HandRunner()
    scheduler.add(runner)
    left, next_one = scheduler.submit(ask("1")), scheduler.submit(ask("2"))
    await turns()
    scheduler.leave(left)
    assert runner.running["1"][1].is_set()
    await turns()
    assert list(runner.running) == ["1"]
    answer = await runner.finish("1")
    assert runner.discarded == [answer], "an answer that nobody wants is removed"
    await runner.finish("2")
    assert (await next_one.answer).params == {"name": "2"}


async def test_an_error_reaches_its_caller_alone():
    scheduler, runner = Scheduler(), HandRunner()
    scheduler.add(runner)
    bad, good = scheduler.submit(ask("1")), scheduler.submit(ask("2"))
    await turns()
    await runner.finish("1", TaskFailed("no"))
    await runner.finish("2")
    with pytest.raises(TaskFailed):
        await bad.answer
    assert (await good.answer).params == {"name": "2"}


async def test_a_dead_worker_gets_no_request():
    scheduler, dead, alive = Scheduler(), HandRunner(), HandRunner()
    scheduler.add(dead)
    dead.ready = False
    ticket = scheduler.submit(ask("1"))
    await turns()
    assert dead.seen == []
    scheduler.add(alive)
    await turns()
    await alive.finish("1")
    assert (await ticket.answer).params == {"name": "1"}


async def test_a_request_that_its_worker_never_began_goes_to_another_one():
    scheduler, dying, alive = Scheduler(), HandRunner(), HandRunner()
    scheduler.add(dying)
    ticket = scheduler.submit(ask("1"))
    await turns()
    dying.ready = False
    await dying.finish("1", WorkerDied("gone", started=False, again=True))
    assert not ticket.answer.done()
    scheduler.remove(dying)
    scheduler.add(alive)
    await turns()
    await alive.finish("1")
    assert (await ticket.answer).params == {"name": "1"}


async def test_a_request_that_its_worker_had_begun_is_not_run_again():
    scheduler, dying, alive = Scheduler(), HandRunner(), HandRunner()
    scheduler.add(dying)
    scheduler.add(alive)
    ticket = scheduler.submit(ask("1"))
    await turns()
    await dying.finish("1", WorkerDied("gone", started=True))
    with pytest.raises(WorkerDied):
        await ticket.answer
    assert alive.seen == []


async def test_a_defect_of_a_runner_does_not_leave_its_caller_waiting():
    scheduler, runner = Scheduler(), HandRunner()
    seen = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: seen.append(context))
    scheduler.add(runner)
    ticket = scheduler.submit(ask("1"))
    await turns()
    await runner.finish("1", ZeroDivisionError())
    with pytest.raises(Exception, match="log says more"):
        await ticket.answer


async def test_a_removed_worker_tells_when_it_is_idle():
    scheduler, runner = Scheduler(), HandRunner()
    scheduler.add(runner)
    scheduler.submit(ask("1"))
    await turns()
    idle = scheduler.remove(runner)
    assert not idle.is_set()
    await runner.finish("1")
    assert idle.is_set()
    assert scheduler.remove(runner).is_set(), "a worker that is not there is idle"


async def test_all_waiting_requests_can_be_failed_at_once():
    scheduler = Scheduler()
    tickets = [scheduler.submit(ask(str(n))) for n in range(3)]
    scheduler.fail_waiting(TaskFailed("the app is broken", app="x"))
    for ticket in tickets:
        with pytest.raises(TaskFailed, match="the app is broken"):
            await ticket.answer
    assert scheduler.waiting == 0


async def test_a_click_does_not_wait_for_an_inference_nor_for_an_image_that_is_opened():
    scheduler, runner = Scheduler(), HandRunner()
    scheduler.add(runner)
    scheduler.submit(ask("long"))
    scheduler.submit(click("opening", verb=SessionVerb.OPEN))
    scheduler.submit(ask("old client", priority=Priority.CLICK))
    scheduler.submit(click("s"))
    scheduler.submit(click("t"))
    await turns()
    assert set(runner.running) == {"long", "opening", "old client", "s"}, "one of each lane"
    await runner.finish("s")
    assert "t" in runner.running


async def test_a_session_stays_with_the_worker_that_holds_it():
    scheduler, one, two = Scheduler(), HandRunner(), HandRunner()
    scheduler.add(one)
    scheduler.add(two)
    scheduler.submit(click("s", verb=SessionVerb.OPEN))
    await turns()
    holder, other = (one, two) if one.seen else (two, one)
    await holder.finish("s")
    first = scheduler.submit(click("s"))
    scheduler.submit(click("s"))
    scheduler.submit(click("new", image="another"))
    await turns()
    assert other.seen == ["new"], "the session waits for its worker, others pass it"
    await holder.finish("s")
    assert (await first.answer).params == {"name": "s"}
    assert holder.seen == ["s", "s", "s"]


async def test_a_session_whose_worker_has_gone_goes_to_another():
    scheduler, one, two = Scheduler(), HandRunner(), HandRunner()
    scheduler.add(one)
    scheduler.submit(click("s", verb=SessionVerb.OPEN))
    await turns()
    await one.finish("s")
    scheduler.remove(one)
    scheduler.add(two)
    scheduler.submit(click("s"))
    await turns()
    assert two.seen == ["s"]


async def test_each_lane_has_its_own_bound():
    scheduler = Scheduler(lambda: RequestQueue(limit=1))
    scheduler.submit(ask("1"))
    with pytest.raises(QueueFull):
        scheduler.submit(ask("2", person="ben"))
    scheduler.submit(click("s"))
    with pytest.raises(QueueFull):
        scheduler.submit(click("t", person="ben"))


async def test_persons_who_click_take_turns():
    scheduler, runner = Scheduler(), HandRunner()
    scheduler.add(runner)
    for name in ("a1", "a2", "a3", "b1"):
        scheduler.submit(click(name, person=name[0]))
    await turns()
    for _ in range(4):
        await runner.finish(next(iter(runner.running)))
    assert runner.seen == ["a1", "b1", "a2", "a3"]


async def test_a_worker_is_idle_once_all_its_lanes_are():
    scheduler, runner = Scheduler(), HandRunner()
    scheduler.add(runner)
    scheduler.submit(ask("long"))
    scheduler.submit(click("s"))
    await turns()
    idle = scheduler.remove(runner)
    await runner.finish("s")
    assert not idle.is_set()
    await runner.finish("long")
    assert idle.is_set()


async def test_the_time_in_the_queue_is_told():
    scheduler, runner = Scheduler(), HandRunner()
    ticket = scheduler.submit(click("s"))
    await asyncio.sleep(0)
    scheduler.add(runner)
    await turns()
    assert ticket.waited_s > 0
    await runner.finish("s")
