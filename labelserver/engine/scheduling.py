"""Who is next: requests wait in one bounded queue, and each worker runs one at a time.

Order: smaller `Priority` first; within it persons take turns (whoever was served longest ago), and a person's requests
keep their order. A request goes to an idle worker that ran this image lately, else to the one idle for longest.

A caller who leaves takes a waiting request out of the queue at once. A running one is cancelled, and its worker stays
busy until it has answered or died, so that nobody is served by a worker that still computes for somebody else.

All methods belong to the event loop's thread; nothing here waits for a lock.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from typing import Protocol

from labelserver.domain.errors import AppFailed, LabelServerError, QueueFull, WorkerDied
from labelserver.domain.infer import InferAnswer, InferRequest

#: requests that may wait; at 2 s each the last one waits two minutes.
MAX_WAITING = 64
#: requests of one person that may wait, so that nobody fills the queue alone.
MAX_WAITING_PER_PERSON = 32
#: images remembered for each worker.
MAX_RECENT_IMAGES = 8


class Runner(Protocol):
    """A worker, as the scheduler sees it."""

    @property
    def ready(self) -> bool:
        """False once it has died, or will not take another request."""

    async def run(self, request: InferRequest, cancelled: asyncio.Event) -> InferAnswer:
        """Returns or raises soon after `cancelled` is set.

        Raises:
            WorkerDied: with the field `started` false if it never began, so that another worker may.
            LabelServerError: any other failure.
        """

    def discard(self, answer: InferAnswer) -> None:
        """Nobody wants this answer any more; remove its file."""


class Ticket:
    """A request in the queue or on a worker. Await `answer`; call `Scheduler.leave` instead of cancelling it."""

    def __init__(self, request: InferRequest, number: int) -> None:
        self.request = request
        self.number = number
        self.cancelled = asyncio.Event()
        self.given_back = False  #: a worker died before it began; once is an accident, twice is an answer
        self.answer: asyncio.Future[InferAnswer] = asyncio.get_running_loop().create_future()
        self.answer.add_done_callback(_look_at)


class RequestQueue:
    """The waiting tickets, in the order of the module's docstring."""

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
        """Let a ticket wait again that was popped already; its number keeps its place."""
        self._waiting.append(ticket)

    def pop(self) -> Ticket:
        """Take out the next one. The queue must not be empty."""
        ticket = min(
            self._waiting,
            key=lambda t: (t.request.priority, self._last_turn.get(t.request.person, 0), t.number),
        )
        self._waiting.remove(ticket)
        person = ticket.request.person
        self._last_turn[person] = next(self._turns)
        self._last_turn.move_to_end(person)
        while len(self._last_turn) > 4 * self._limit:  # persons long gone
            self._last_turn.popitem(last=False)
        return ticket

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
        self.idle = asyncio.Event()
        self.idle.set()

    def remember(self, key: str) -> None:
        self.recent[key] = None
        self.recent.move_to_end(key)
        if len(self.recent) > MAX_RECENT_IMAGES:
            self.recent.popitem(last=False)


class Scheduler:
    """Brings tickets and workers together."""

    def __init__(self, queue: RequestQueue | None = None) -> None:
        self._queue = queue or RequestQueue()
        self._places: dict[Runner, _Place] = {}
        self._idle: list[_Place] = []  # longest idle first
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def submit(self, request: InferRequest) -> Ticket:
        """Put a request into the queue. Raises `QueueFull`."""
        ticket = Ticket(request, next(self._numbers))
        self._queue.put(ticket)
        self._pump()
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """The caller does not want the answer any more."""
        ticket.answer.cancel()
        if not self._queue.remove(ticket):
            ticket.cancelled.set()

    def fail_waiting(self, error: LabelServerError) -> None:
        """Give every waiting caller this error: no worker will come."""
        for ticket in self._queue.take_all():
            if not ticket.answer.done():
                ticket.answer.set_exception(type(error)(error.message, **error.fields))

    def add(self, runner: Runner) -> None:
        """A worker is ready for requests."""
        place = self._places[runner] = _Place(runner)
        self._idle.append(place)
        self._pump()

    def remove(self, runner: Runner) -> asyncio.Event:
        """No further request for this worker. The event is set once it runs none (it may be set already)."""
        place = self._places.pop(runner, None)
        if place is None:
            done = asyncio.Event()
            done.set()
            return done
        if place in self._idle:
            self._idle.remove(place)
        return place.idle

    def _pump(self) -> None:
        self._idle = [place for place in self._idle if place.runner.ready]
        while self._idle and len(self._queue):
            ticket = self._queue.pop()
            key = _image_key(ticket.request)
            place = next((p for p in self._idle if key in p.recent), self._idle[0])
            self._idle.remove(place)
            place.remember(key)
            place.idle.clear()
            task = asyncio.get_running_loop().create_task(self._serve(place, ticket))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, place: _Place, ticket: Ticket) -> None:
        try:
            answer = await place.runner.run(ticket.request, ticket.cancelled)
        except LabelServerError as error:
            never_began = isinstance(error, WorkerDied) and error.fields.get("started") is False
            if not ticket.answer.done():
                if never_began and not ticket.given_back:
                    ticket.given_back = True
                    self._queue.give_back(ticket)
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
            place.idle.set()
            if self._places.get(place.runner) is place and place.runner.ready:
                self._idle.append(place)
            self._pump()


def _look_at(answer: asyncio.Future[InferAnswer]) -> None:
    """The caller may have left; an error that nobody awaits is no defect."""
    if not answer.cancelled():
        answer.exception()


def _image_key(request: InferRequest) -> str:
    """What a worker may hold in memory: the image, whoever asks and whichever model."""
    if request.image_id is not None:
        return f"id:{request.image_id}"
    return f"file:{request.image_file.root.value}:{request.image_file.path}" if request.image_file else ""
