"""Work for a caller who may go away: nobody computes an answer that nobody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from labelserver.domain.errors import TookTooLong

_Result = TypeVar("_Result")


async def while_connected(
    request: Request,
    work: Awaitable[_Result],
    *,
    within_s: float | None = None,
    discard: Callable[[_Result], None] | None = None,
) -> _Result:
    """The result of `work`, unless the caller goes away or the time is over: then `work` is cancelled.

    Args:
        request: the caller's; its body must have been read.
        work: what to wait for.
        within_s: seconds that the caller waits; None: as long as it takes.
        discard: gets a result that came too late to be sent, to remove its files.

    Raises:
        ClientDisconnect: the caller went away.
        TookTooLong: the time is over.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    sent = False
    try:
        done, _ = await asyncio.wait({task, gone}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            sent = True
            return task.result()
        if done:
            raise ClientDisconnect
        raise TookTooLong(f"No answer within {within_s:g} s. Try a smaller region, or another model.")
    finally:
        gone.cancel()
        if not sent:
            task.cancel()
            (ended, _) = await asyncio.gather(task, gone, return_exceptions=True)
            if discard is not None and not isinstance(ended, BaseException):
                discard(ended)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue
