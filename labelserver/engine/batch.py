"""Batch inference: a job without a process of its own. Each image is one low-priority request to a worker.

It keeps the same folder and writes the same events as any job. What is done stands in the events, so that a batch taken
up again after a restart goes on with the next image. One image that fails is an entry in the result, not the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from labelserver.domain.errors import Busy, LabelServerError, QueueFull, TaskNotFound
from labelserver.domain.ids import ORIGINAL, ImageId
from labelserver.domain.infer import InferAnswer, InferRequest, Priority
from labelserver.domain.jobs import JobReason, JobSpec, Signal
from labelserver.domain.json_types import JsonObject, JsonValue
from labelserver.engine.job_folder import EventWriter, JobFolder
from labelserver.storage import atomic

logger = logging.getLogger(__name__)

#: seconds between tries while people's requests fill the queue.
BUSY_PAUSE_S = 1.0
#: options that steer the batch and are no business of a single inference.
_BATCH_OPTIONS = frozenset({"images", "max_batch_size", "max_workers", "multi_gpu", "gpus", "logging", "label_tag"})


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BatchTools:
    """What a batch needs of the engine."""

    infer: Callable[[InferRequest], Awaitable[InferAnswer]]
    call_lead: Callable[[str, JsonObject], Awaitable[JsonValue]]
    discard: Callable[[InferAnswer], None]


class Batch:
    """One batch job, run by the server."""

    def __init__(self, folder: JobFolder, spec: JobSpec, tools: BatchTools) -> None:
        self._folder = folder
        self._spec = spec
        self._tools = tools
        self._stop = asyncio.Event()

    def ask_to_stop(self) -> None:
        """End after the current image, whose inference is cancelled. Safe to call twice."""
        self._stop.set()

    async def run(self) -> None:
        """Work until done, stopped or failed; every outcome is an event in the folder. Raises `StorageFailed`."""
        events = EventWriter(self._folder)
        try:
            await self._work(events)
        except LabelServerError as error:
            reason = JobReason.DISK_FULL if error.code == "DiskFull" else JobReason.APP_ERROR
            logger.error("batch inference failed", extra={"job_id": self._spec.job_id, "error": error.message})
            events.write(Signal.FAILED, {"reason": reason.value, "message": error.message}, sync=True)
        finally:
            events.close()

    async def _work(self, events: EventWriter) -> None:
        events.write(Signal.RUNNING)
        images = await self._until_stopped(self._images())
        if images is None:
            return
        results = self._done_before()
        left = [image for image in images if image not in results]
        events.write(Signal.LOG, {"line": f"{self._spec.task}: {len(left)} of {len(images)} images to infer."})
        events.write(Signal.PROGRESS, {"done": len(results), "total": len(images)})
        for image in left:
            outcome = await self._until_stopped(self._infer(image))
            if outcome is None:
                events.write(Signal.LOG, {"line": f"Stopped after {len(results)} of {len(images)} images."})
                return
            results[image] = outcome
            line = f"{len(results)}/{len(images)} {image}: {_in_words(outcome)}"
            events.write(Signal.LOG, {"line": line, "image": image, "outcome": outcome})
            events.write(Signal.PROGRESS, {"done": len(results), "total": len(images), "image": image})
        errors = [str(result["error"]) for result in results.values() if "error" in result]
        if errors and len(errors) == len(results):
            message = f"None of the {len(errors)} images could be inferred. The first one: {errors[0]}"
            events.write(Signal.FAILED, {"reason": JobReason.APP_ERROR.value, "message": message}, sync=True)
        else:
            events.write(Signal.RESULT, {image: results[image] for image in images}, sync=True)

    async def _until_stopped(self, work: Coroutine[object, object, T]) -> T | None:
        """The result of `work`, or None (and `work` cancelled) once a stop was asked for."""
        task = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(self._stop.wait())
        try:
            either: list[asyncio.Future[Any]] = [task, stopped]  # Any: their results differ and are not read here
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, LabelServerError):
                await task
            return None
        finally:
            task.cancel()
            stopped.cancel()

    async def _images(self) -> list[str]:
        """The images of this batch: decided once, kept, and the same after a restart."""
        kept = self._folder.path / "images.json"
        with contextlib.suppress(OSError, ValueError):
            return [str(image) for image in json.loads(kept.read_text())]
        asked = self._spec.params.get("images", "all")
        if isinstance(asked, list):
            limit = self._spec.params.get("max_batch_size")
            images = sorted({str(image) for image in asked})
            images = images[: int(limit)] if isinstance(limit, int) and limit > 0 else images
        else:
            answer = await self._tools.call_lead("batch_images", {"params": self._spec.params})
            images = [str(image) for image in answer] if isinstance(answer, list) else []
        await asyncio.to_thread(atomic.write_json, kept, images)
        return images

    def _done_before(self) -> dict[str, JsonObject]:
        """What an earlier server got done, by image."""
        done: dict[str, JsonObject] = {}
        for event in self._folder.events():
            image, outcome = event.data.get("image"), event.data.get("outcome")
            if event.signal is Signal.LOG and isinstance(image, str) and isinstance(outcome, dict):
                done[image] = outcome
        return done

    async def _infer(self, image: str) -> JsonObject:
        """``{"label", "tag", "params"}``, or ``{"error"}``.

        Raises:
            TaskNotFound: no image can be inferred.
            Busy: the worker does not come up.
        """
        options = {key: value for key, value in self._spec.params.items() if key not in _BATCH_OPTIONS}
        tag = self._spec.params.get("label_tag") or ORIGINAL
        request = InferRequest(
            model=self._spec.task,
            image_id=ImageId(image),
            params={"save_label": True, **options, "label_tag": tag},
            person=self._spec.person,
            priority=Priority.BATCH,
        )
        while True:
            try:
                answer = await self._tools.infer(request)
            except QueueFull:
                await asyncio.sleep(BUSY_PAUSE_S)
            except (TaskNotFound, Busy):
                raise
            except LabelServerError as error:
                return {"error": error.message}
            else:
                self._tools.discard(answer)
                label, saved_tag = answer.saved_label or ("", str(tag))
                return {"label": label, "tag": saved_tag, "params": answer.params}


def _in_words(outcome: JsonObject) -> str:
    if "error" in outcome:
        return f"failed: {outcome['error']}"
    return f"saved as {outcome['label']} ({outcome['tag']})" if outcome["label"] else "inferred, nothing saved"
