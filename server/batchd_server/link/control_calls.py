"""Questions and orders that wait for their `ControlReply`. Belongs to one event loop."""

from __future__ import annotations

import asyncio
from typing import Any

from batchd_server.errors import ERROR_TYPES, ServingError, Unavailable
from batchd_server.link.lease_calls import LEASE_ACTIONS, MAX_TIMEOUT_S
from batchd_server.link.messages import Control, ControlReply

REPLY_TIMEOUT_S = 10.0
LOAD_TIMEOUT_S = 600.0
"""Loading reads weights and may compile; unloading waits for what runs."""


class ControlCalls:
    """Numbers calls, and brings each reply to who asked."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._for_leases: set[int] = set()
        self._next = 0

    def begin(self, action: str, arguments: dict[str, Any]) -> Control:
        """Return the message to send; `reply` then waits for its answer."""
        self._next += 1
        self._waiting[self._next] = asyncio.get_running_loop().create_future()
        if action in LEASE_ACTIONS:
            self._for_leases.add(self._next)
        # the device process refuses an action it does not know
        return Control(call=self._next, action=action, arguments=arguments)  # type: ignore[arg-type]

    async def reply(self, control: Control) -> Any:
        """Wait for the answer.

        Raises:
            ServingError: as the device process answered, or Unavailable where it does not in time.
        """
        timeout_s = REPLY_TIMEOUT_S
        if control.action in ("load", "unload"):
            timeout_s = LOAD_TIMEOUT_S
        elif control.call in self._for_leases:
            timeout_s += MAX_TIMEOUT_S  # the device process minds the client's own
        try:
            async with asyncio.timeout(timeout_s):
                return await self._waiting[control.call]
        except TimeoutError:
            raise Unavailable(f"the device process did not answer within {timeout_s:g} s", retry_after_s=5.0) from None
        finally:
            self.forget(control)

    def forget(self, control: Control) -> None:
        """Ignore the answer if it still comes."""
        self._waiting.pop(control.call, None)
        self._for_leases.discard(control.call)

    def settle(self, reply: ControlReply) -> None:
        """Hand a reply to who waits for it, if anyone still does."""
        future = self._waiting.get(reply.call)
        if future is None or future.done():
            return
        if reply.error is None:
            future.set_result(reply.result)
            return
        status, code, message = reply.error
        future.set_exception(ERROR_TYPES.get(status, ServingError)(message, code=code))

    def begin_drain(self) -> None:
        """End the calls that may wait for long: their clients are better off elsewhere."""
        for call in self._for_leases:
            future = self._waiting[call]
            if not future.done():
                future.set_exception(Unavailable("the server is stopping", code="draining"))

    def lose(self) -> None:
        """The device process is gone: whoever asked it is told so."""
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Unavailable("the device process was lost", retry_after_s=2.0))
