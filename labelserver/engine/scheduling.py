"""Who is next: requests wait in bounded queues, one a lane, and each worker runs one request of each lane at a time.

Lanes are the threads of a worker, so that a click is never behind an inference of half a minute:

    click   prompts of interactive sessions, undo and the like
    ask     inferences with clicks (old clients)
    open    opening images for sessions, writing whole masks
    infer   all other inferences; gives way to the lanes above between two transforms or windows

Order within a lane: smaller `Priority` first; within it persons take turns (whoever was served longest ago), and a
person's requests keep their order. A session's requests go to the worker that holds it, others to an idle worker that
ran this image lately, else to the one idle for longest.

A caller who leaves takes a waiting request out of the queue at once. A running one is cancelled, and its lane stays
busy until the worker has answered or died, so that nobody is served by a thread that still computes for somebody else.

All methods belong to the event loop's thread; nothing here waits for a lock.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol, TypeAlias

from labelserver.domain.errors import AppFailed, LabelServerError, QueueFull, WorkerDied
from labelserver.domain.infer import InferAnswer, InferRequest, Priority
from labelserver.domain.interaction import SessionAnswer, SessionCall, SessionVerb
from labelserver.engine.workers import ASK_LANE, CLICK_LANE, INFER_LANE, OPEN_LANE

#: requests that may wait in a lane; at 2 s each the last one waits two minutes.
MAX_WAITING = 64
#: requests of one person that may wait in a lane, so that nobody fills the queue alone.
MAX_WAITING_PER_PERSON = 32
#: images remembered for each worker.
MAX_RECENT_IMAGES = 8
#: sessions whose worker is remembered.
MAX_REMEMBERED_SESSIONS = 10_000

Request: TypeAlias = InferRequest | SessionCall
Answer: TypeAlias = InferAnswer | SessionAnswer
OnPartial: TypeAlias = Callable[[SessionAnswer], None] | None

_OPENING = (SessionVerb.OPEN, SessionVerb.PREFETCH, SessionVerb.WRITE)


def lane_of(request: Request) -> str:
    """The lane that runs `request`."""
    if isinstance(request, SessionCall):
        return OPEN_LANE if request.verb in _OPENING else CLICK_LANE
    return ASK_LANE if request.priority is Priority.CLICK else INFER_LANE


def priority_of(request: Request) -> Priority:
    if isinstance(request, SessionCall):
        return Priority.OPEN_IMAGE if request.verb in _OPENING else Priority.CLICK
    return request.priority


class Runner(Protocol):
    """A worker, as the scheduler sees it."""

    @property
    def ready(self) -> bool:
        """False once it has died, or will not take another request."""

    async def run(self, request: Request, cancelled: asyncio.Event, on_partial: OnPartial = None) -> Answer:
        """Returns or raises soon after `cancelled` is set.

        Raises:
            WorkerDied: with the field `again` true if the request may be given to another worker: this one never began
                with it, or had to be ended for the sake of another request.
            LabelServerError: any other failure.
        """

    def discard(self, answer: Answer) -> None:
        """Nobody wants this answer any more; remove its file."""


class Ticket:
    """A request in the queue or on a worker. Await `answer`; call `Scheduler.leave` instead of cancelling it."""

    def __init__(self, request: Request, number: int, on_partial: OnPartial = None) -> None:
        self.request = request
        self.number = number
        self.lane = lane_of(request)
        self.on_partial = on_partial
        self.cancelled = asyncio.Event()
        self.given_back = False  #: a worker died before it began; once is an accident, twice is an answer
        self.since = time.monotonic()
        self.waited_s = 0.0  #: until a worker took it
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.answer.add_done_callback(_look_at)


class RequestQueue:
    """The waiting tickets of one lane, in the order of the module's docstring."""

    def __init__(self, limit: int = MAX_WAITING, limit_per_person: int = MAX_WAITING_PER_PERSON) -> None:
        self._limit = limit
        self._limit_per_person = limit_per_person
        self._waiting: list[Ticket] = []
        self._turns = itertools.count(1)
        self._last_turn: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, ticket: Ticket) -> None:
        """Raises `QueueFull`."""
        if len(self._waiting) >= self._limit:
            raise QueueFull(
                f"{len(self._waiting)} inference requests are waiting already. Try again in some seconds.",
                waiting=len(self._waiting),
            )
        person = ticket.request.person
        own = sum(1 for other in self._waiting if other.request.person == person)
        if own >= self._limit_per_person:
            raise QueueFull(
                f"{own} inference requests of yours are waiting already. Wait for some of them, then try again.",
                waiting=own,
            )
        self._waiting.append(ticket)

    def give_back(self, ticket: Ticket) -> None:
        """Let a ticket wait again that was taken already; its number keeps its place."""
        self._waiting.append(ticket)

    def in_order(self) -> list[Ticket]:
        """The waiting tickets, next first."""
        return sorted(
            self._waiting,
            key=lambda t: (priority_of(t.request), self._last_turn.get(t.request.person, 0), t.number),
        )

    def take(self, ticket: Ticket) -> None:
        """Take out a waiting ticket: its person has had a turn."""
        self._waiting.remove(ticket)
        person = ticket.request.person
        self._last_turn[person] = next(self._turns)
        self._last_turn.move_to_end(person)
        while len(self._last_turn) > 4 * self._limit:  # persons long gone
            self._last_turn.popitem(last=False)

    def remove(self, ticket: Ticket) -> bool:
        """True if it was still waiting."""
        if ticket in self._waiting:
            self._waiting.remove(ticket)
            return True
        return False

    def take_all(self) -> list[Ticket]:
        taken, self._waiting = self._waiting, []
        return taken


class _Place:
    """A worker's place in the scheduler."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.recent: OrderedDict[str, None] = OrderedDict()
        self.busy: set[str] = set()  #: lanes
        self.last_end: dict[str, int] = {}  #: lane -> when it became idle, as a count
        self.idle = asyncio.Event()  #: no lane is busy
        self.idle.set()

    def remember(self, key: str) -> None:
        self.recent[key] = None
        self.recent.move_to_end(key)
        if len(self.recent) > MAX_RECENT_IMAGES:
            self.recent.popitem(last=False)

    def begin(self, lane: str) -> None:
        self.busy.add(lane)
        self.idle.clear()

    def end(self, lane: str, count: int) -> None:
        self.busy.discard(lane)
        self.last_end[lane] = count
        if not self.busy:
            self.idle.set()


class Scheduler:
    """Brings tickets and workers together."""

    def __init__(self, make_queue: Callable[[], RequestQueue] = RequestQueue) -> None:
        self._queues = {lane: make_queue() for lane in (CLICK_LANE, ASK_LANE, OPEN_LANE, INFER_LANE)}
        self._places: dict[Runner, _Place] = {}
        self._holders: OrderedDict[str, _Place] = OrderedDict()  # session -> the worker that holds it
        self._counts = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def submit(self, request: Request, on_partial: OnPartial = None) -> Ticket:
        """Put a request into its queue. Raises `QueueFull`."""
        ticket = Ticket(request, next(self._counts), on_partial)
        self._queues[ticket.lane].put(ticket)
        self._pump()
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """The caller does not want the answer any more."""
        ticket.answer.cancel()
        if not self._queues[ticket.lane].remove(ticket):
            ticket.cancelled.set()

    def fail_waiting(self, error: LabelServerError) -> None:
        """Give every waiting caller this error: no worker will come."""
        for queue in self._queues.values():
            for ticket in queue.take_all():
                if not ticket.answer.done():
                    ticket.answer.set_exception(type(error)(error.message, **error.fields))

    def add(self, runner: Runner) -> None:
        """A worker is ready for requests."""
        self._places[runner] = _Place(runner)
        self._pump()

    def remove(self, runner: Runner) -> asyncio.Event:
        """No further request for this worker. The event is set once it runs none (it may be set already)."""
        place = self._places.pop(runner, None)
        if place is None:
            done = asyncio.Event()
            done.set()
            return done
        return place.idle

    def _pump(self) -> None:
        for lane, queue in self._queues.items():
            while len(queue) and (found := self._next(lane, queue)) is not None:
                ticket, place = found
                queue.take(ticket)
                ticket.waited_s = time.monotonic() - ticket.since
                place.begin(lane)
                self._remember(ticket.request, place)
                task = asyncio.get_running_loop().create_task(self._serve(place, ticket))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _next(self, lane: str, queue: RequestQueue) -> tuple[Ticket, _Place] | None:
        """The first ticket that a worker may take now, and that worker."""
        idle = [p for p in self._places.values() if lane not in p.busy and p.runner.ready]
        idle.sort(key=lambda place: place.last_end.get(lane, 0))
        if not idle:
            return None
        for ticket in queue.in_order():
            holder = self._holder(ticket.request)
            if holder is None:
                key = _image_key(ticket.request)
                return ticket, next((p for p in idle if key in p.recent), idle[0])
            if holder in idle:
                return ticket, holder
        return None

    def _holder(self, request: Request) -> _Place | None:
        """The living worker that holds the request's session; None if there is none."""
        if not isinstance(request, SessionCall):
            return None
        place = self._holders.get(request.session)
        return place if place is not None and self._places.get(place.runner) is place else None

    def _remember(self, request: Request, place: _Place) -> None:
        place.remember(_image_key(request))
        if isinstance(request, SessionCall) and request.session:
            if request.verb is SessionVerb.CLOSE:
                self._holders.pop(request.session, None)
                return
            self._holders[request.session] = place
            self._holders.move_to_end(request.session)
            if len(self._holders) > MAX_REMEMBERED_SESSIONS:
                self._holders.popitem(last=False)

    async def _serve(self, place: _Place, ticket: Ticket) -> None:
        try:
            answer = await place.runner.run(ticket.request, ticket.cancelled, ticket.on_partial)
        except LabelServerError as error:
            again = isinstance(error, WorkerDied) and error.fields.get("again") is True
            if not ticket.answer.done():
                if again and not ticket.given_back:
                    ticket.given_back = True
                    self._queues[ticket.lane].give_back(ticket)
                else:
                    ticket.answer.set_exception(error)
        except BaseException:  # a defect of ours, which the loop logs; the caller must not wait for ever
            if not ticket.answer.done():
                ticket.answer.set_exception(AppFailed("The request could not be finished; the log says more."))
            raise
        else:
            if ticket.answer.done():
                place.runner.discard(answer)
            else:
                ticket.answer.set_result(answer)
        finally:
            place.end(ticket.lane, next(self._counts))
            self._pump()


def _look_at(answer: asyncio.Future[Answer]) -> None:
    """The caller may have left; an error that nobody awaits is no defect."""
    if not answer.cancelled():
        answer.exception()


def _image_key(request: Request) -> str:
    """What a worker may hold in memory: the image, whoever asks and whichever model."""
    if request.image_id is not None:
        return f"id:{request.image_id}"
    return f"file:{request.image_file.root.value}:{request.image_file.path}" if request.image_file else ""
