"""Calls about jobs as they go: events, curves, resuming, and the rules by which trainings start."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Sequence
from contextlib import closing

import httpx

from labelserver.client.calling import Caller
from labelserver.client.errors import ServerUnreachable, failure_of
from labelserver.domain.json_types import JsonObject
from labelserver.wire.events import ServerEvent
from labelserver.wire.jobs import Curve, Job
from labelserver.wire.triggers import TrainingTriggers, TriggersInUse

#: seconds without a byte after which a stream is given up; the server sends a comment every 15.
SILENCE_S = 45.0
#: seconds between tries to connect again, and for which they go on.
RETRY_S = 1.0
GIVE_UP_S = 60.0


class FollowingCalls(Caller):
    """What happens on the server, and what becomes of jobs."""

    def events(
        self, *, job_id: str = "", kinds: Sequence[str] = (), after: int | None = None, follow: bool = True
    ) -> Generator[ServerEvent, None, None]:
        """Events as they happen; a broken connection is taken up again where it was. Close it to end it early.

        Args:
            job_id: of this job alone.
            kinds: of these kinds alone; ``job`` takes ``job.epoch`` in.
            after: behind this id; 0: from the oldest kept; None: what is new.
            follow: wait for what comes; else end after what is there.

        Raises:
            ServerUnreachable: nobody answers, for a minute if somebody did before.
        """
        query: dict[str, str | list[str]] = {"follow": str(follow).lower()}
        if job_id:
            query["job"] = job_id
        if kinds:
            query["kind"] = list(kinds)
        connected, lost_at = False, time.monotonic()
        while True:
            if after is not None:
                query["after"] = str(after)
            try:
                with closing(self._stream(query)) as stream:
                    for event in stream:
                        connected, lost_at = True, time.monotonic()
                        if event.id is not None:
                            after = event.id
                        yield event
                if not follow:
                    return
            except (ServerUnreachable, httpx.TransportError) as error:
                if not connected or time.monotonic() - lost_at > GIVE_UP_S:
                    raise ServerUnreachable(f"No answer from {self.url} any more ({error}).") from error
            time.sleep(RETRY_S)

    def curve(self, job_id: str) -> Curve:
        """Loss, learning rate and metrics of a training by epoch."""
        return self._parsed(Curve, self._json("GET", f"/api/v1/jobs/{job_id}/curve"))

    def resume_job(self, job_id: str) -> Job:
        """Let a stopped or failed job go on from its last checkpoint. Raises `Conflict` if it is neither."""
        return self._parsed(Job, self._json("POST", f"/api/v1/jobs/{job_id}/resume"))

    def triggers(self) -> TriggersInUse:
        """When trainings start by themselves."""
        return self._parsed(TriggersInUse, self._json("GET", "/api/v1/training/triggers"))

    def set_triggers(self, triggers: TrainingTriggers) -> TriggersInUse:
        """Say when trainings start by themselves. Raises `Refused` for rules that make no sense."""
        wanted: JsonObject = triggers.model_dump(mode="json")
        return self._parsed(TriggersInUse, self._json("PUT", "/api/v1/training/triggers", json=wanted))

    def _stream(self, query: dict[str, str | list[str]]) -> Generator[ServerEvent, None, None]:
        timeout = httpx.Timeout(SILENCE_S, connect=10)
        with (
            self._reaching(),
            self._http.stream("GET", "/api/v1/events", params=query, timeout=timeout) as answer,
        ):
            if answer.status_code != 200:
                answer.read()
                raise failure_of(answer)
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    document = json.loads(line.removeprefix("data: "))
                    yield self._parsed(ServerEvent, document or {"kind": "gap"})
