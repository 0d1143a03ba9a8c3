"""How a front process comes to its end: no request that it was sent is lost, and none is left without an answer.

Uvicorn alone closes its socket first of all, cuts idle connections while clients may be writing to them, and cancels
what takes too long. Here it goes on accepting until nothing is left to do, and connections end with an answer that
says so (`Connection: close`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine, Generator
from contextlib import contextmanager
from typing import Protocol, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from batchd_server.supervisor.stopping import LAST_ANSWERS_S, retire_limit_s

log = logging.getLogger(__name__)

MOMENT_S = 0.5
"""When nothing is left to do, for idle connections to bring one more request, and be told to go elsewhere."""
ON_THE_WIRE_S = 0.5
"""For connections that were accepted last to bring their request."""
FIRST_LOOKS = 10
"""Turns of the event loop in which it takes what lay in its sockets when it heard of the stop, before it refuses:
this process may have stood still since that was sent. The request of a new connection needs five."""
LAST_LOOKS = 3
"""Turns of the event loop in which it accepts whoever knocks, before it stops: these would be cut off."""
CANCELLED_S = 0.5
"""For cancelled requests to be answered."""
POLL_S = 0.02


class Server(uvicorn.Server):
    """Uvicorn without its signal handling, which ends the process by the signal instead of with exit code 0."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the handlers as they are."""
        yield

    def accept_no_more(self) -> None:
        """Leave new connections to the other processes that share the socket."""
        for server in self.servers:
            server.close()

    def close_after_answers(self) -> None:
        """Have every answer from now on be the last of its connection."""
        closing = (b"connection", b"close")
        if closing in self.config.encoded_headers:
            return
        self.config.encoded_headers.append(closing)  # uvicorn takes them over once a second
        self.server_state.default_headers = [*self.server_state.default_headers, closing]
        for connection in self.server_state.connections:  # requests in progress have taken their headers over already
            assert isinstance(connection, HttpToolsProtocol), "no other protocol is configured"
            cycle = cast("RequestResponseCycle | None", connection.cycle)  # None before the first request
            if cycle is not None and not cycle.response_complete:
                cycle.keep_alive = False


class Closing(Protocol):
    """What must hear of the end: the `LinkDispatcher`."""

    def leave(self) -> None:
        """Be not ready from now on, and serve all the same."""
        ...

    def retire(self) -> None:
        """Serve on, but not for long: streams end."""
        ...

    def begin_drain(self) -> None:
        """Refuse requests that arrive from now on."""
        ...

    def abandon(self) -> None:
        """Refuse what still waits."""
        ...


class Draining:
    """Brings one server to its end when it is told to. Lives in the server's event loop."""

    def __init__(self, server: Server, dispatcher: Closing, drain_timeout_s: float) -> None:
        self._server = server
        self._dispatcher = dispatcher
        self._limit_s = drain_timeout_s
        self._ending: asyncio.Task[None] | None = None
        self._stopping = False

    def leave(self) -> None:
        """Be not ready; the order to stop follows."""
        self._dispatcher.leave()

    def retire(self) -> None:
        """Accept nobody more, serve those that are connected once more each, and end: a successor has taken over."""
        if self._ending is None:
            log.info("serving the last requests")
            self._begin(self._retire())

    def stop(self) -> None:
        """Refuse what is new, finish what was admitted, and end; at the second time at once."""
        if self._stopping or not self._server.started:
            self._server.should_exit = self._server.force_exit = True
            return
        log.info("draining")
        self._stopping = True
        if self._ending is not None:
            self._ending.cancel()
        self._begin(self._stop())

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _begin(self, ending: Coroutine[None, None, None]) -> None:
        self._ending = asyncio.create_task(ending)
        self._ending.add_done_callback(self._ended)

    def _ended(self, ending: asyncio.Task[None]) -> None:
        if ending.cancelled():  # another way to end has begun
            return
        if ending.exception() is not None:
            log.error("the orderly end has failed", exc_info=ending.exception())
        self._server.should_exit = True

    async def _retire(self) -> None:
        self._server.accept_no_more()
        self._server.close_after_answers()
        self._dispatcher.retire()
        # What is idle stays until it has brought a request or been idle for as long as uvicorn allows anybody: a
        # connection that the server closes while the client writes to it is a lost request.
        await self._connections_end(retire_limit_s(self._limit_s))
        self._dispatcher.begin_drain()
        await self._release(tuple(self._server.server_state.tasks))

    async def _stop(self) -> None:
        self._server.close_after_answers()
        for _ in range(FIRST_LOOKS):
            await asyncio.sleep(0)
        admitted = tuple(self._server.server_state.tasks)
        self._dispatcher.begin_drain()
        if admitted:
            await asyncio.wait(admitted, timeout=self._limit_s)
        await self._release(admitted)
        await self._connections_end(MOMENT_S)
        for _ in range(LAST_LOOKS):
            await asyncio.sleep(0)
        self._server.accept_no_more()
        await self._connections_end(ON_THE_WIRE_S)

    async def _release(self, requests: Collection[asyncio.Task[None]]) -> None:
        """Answer 503 to those of `requests` that are not done."""
        left = [request for request in requests if not request.done()]
        if not left:
            return
        log.warning("%d requests were not finished in time", len(left))
        self._dispatcher.abandon()
        _, left_still = await asyncio.wait(left, timeout=LAST_ANSWERS_S)
        for request in left_still:  # it does not wait for the device: the outermost layer answers for it
            request.cancel()
        if left_still:
            await asyncio.wait(left_still, timeout=CANCELLED_S)

    async def _connections_end(self, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + timeout_s
        while self._server.server_state.connections and loop.time() < give_up:  # noqa: ASYNC110 - uvicorn has no event
            await asyncio.sleep(POLL_S)
