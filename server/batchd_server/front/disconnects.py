"""Work that is given up as soon as nobody waits for it: the client has gone, or its deadline has passed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from batchd_server.errors import DeadlineExceeded

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed the connection before its answer was there."""


async def run_while_awaited(work: Coroutine[Any, Any, T], receive: Receive, timeout_s: float | None) -> T:
    """Return the result of `work`, and cancel it where the client leaves or `timeout_s` passes first.

    The request's body must have been read: what `receive` brings next is the end of the connection.

    Raises:
        ClientGone: the client has left.
        DeadlineExceeded: `timeout_s` has passed.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    reasons: list[Exception] = []

    def give_up(reason: Exception) -> None:
        if not task.done():
            reasons.append(reason)
            task.cancel()

    watcher = loop.create_task(_disconnected(receive))
    watcher.add_done_callback(lambda done: give_up(ClientGone()) if not done.cancelled() and done.result() else None)
    timer = None
    if timeout_s is not None:
        late = DeadlineExceeded("the deadline of the request passed before its answer was there")
        timer = loop.call_later(max(timeout_s, 0.0), give_up, late)
    try:
        return await task
    except asyncio.CancelledError:
        this = asyncio.current_task()
        if not reasons or (this is not None and this.cancelling()):
            raise
        raise reasons[0] from None
    finally:
        watcher.cancel()
        if timer is not None:
            timer.cancel()


async def _disconnected(receive: Receive) -> bool:
    while (await receive())["type"] != "http.disconnect":
        pass
    return True
