"""Connections to the server, one request at a time on each, without a shared pool.

httpx and httpcore walk their whole pool for every request: 0.5 ms of CPU each with 8 connections, 2.3 ms with 64
(Python 3.11, httpx 0.28). One httpx transport per connection costs 0.3 ms whatever their number, so each lane here is a
transport with a single connection, and the lane used last is used next.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self, TypeAlias

import httpx

from batchd_client.error_answers import read_error
from batchd_client.httpx_bridge import answer_of
from batchd_client.loadtest.answer import timing_of
from batchd_client.loadtest.payload import Payload
from batchd_client.loadtest.sample import NO_TIMING, Exchange
from batchd_client.loadtest.target import Target

Read: TypeAlias = Callable[[Payload, Mapping[str, str], bytes], None]
"""Sees every answer with status 200: what was asked, the answer's headers and its body."""

_KEEPALIVE_S = 3.0
"""Shorter than the 5 s after which common servers close an idle connection, so as not to race them."""


class Connections:
    """Sends payloads over at most `target.max_connections` connections. Lives within one event loop.

    Answers are not looked into, unless there is a `read`; what that costs is the generator's time, not the requests'.
    """

    def __init__(self, target: Target, *, read: Read | None = None) -> None:
        self._target = target
        self._read = read
        # One for all lanes: a transport left to itself makes its own, which takes longer than a request.
        secure = target.url.startswith("https")
        self._tls = httpx.create_ssl_context() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=_KEEPALIVE_S)
        self._idle: list[httpx.AsyncHTTPTransport] = []
        self._open = 0
        self._waiting: deque[asyncio.Future[httpx.AsyncHTTPTransport]] = deque()
        self._requests: dict[Payload, httpx.Request] = {}

    async def __aenter__(self) -> Self:
        """Open nothing yet: connections are made when they are first needed."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every idle connection."""
        for lane in self._idle:
            await lane.aclose()
        self._idle.clear()

    async def send(self, payload: Payload) -> Exchange:
        """Send once and read the whole answer. Failures of the wire are outcomes, not exceptions."""
        request = self._requests.get(payload)
        if request is None:
            request = self._requests[payload] = self._prepare(payload)
        waited = not self._idle and self._open >= self._target.max_connections
        lane = await self._acquire()
        whole = False
        try:
            exchange = await self._exchange(lane, payload, request, waited)
            whole = exchange.answered
            return exchange
        finally:
            if whole:
                self._release(lane)
            else:
                await self._replace(lane)

    async def _exchange(
        self, lane: httpx.AsyncHTTPTransport, payload: Payload, request: httpx.Request, waited: bool
    ) -> Exchange:
        now = asyncio.get_running_loop().time
        sent = now()
        try:
            async with asyncio.timeout(self._target.timeout_s):
                response = await lane.handle_async_request(request)
                try:
                    body = await response.aread()
                finally:
                    await response.aclose()
        except TimeoutError:
            return _failure(sent, now(), "timeout", f"no answer within {self._target.timeout_s:g} s", waited)
        except httpx.TransportError as error:
            outcome = "connect error" if isinstance(error, httpx.ConnectError) else "connection lost"
            return _failure(sent, now(), outcome, str(error) or type(error).__name__, waited)
        done = now()
        ok = response.status_code == 200
        if ok and self._read is not None:
            self._read(payload, response.headers, body)
        code, message = ("", "") if ok else _reason(response, body)
        return Exchange(
            sent=sent,
            done=done,
            outcome=f"{response.status_code} {code}".rstrip(),
            ok=ok,
            answered=True,
            waited_for_connection=waited,
            timing=timing_of(response.headers, body) if ok else NO_TIMING,
            message=message,
        )

    def _prepare(self, payload: Payload) -> httpx.Request:
        url = self._target.address(payload.path)
        headers = {"content-type": "application/json", **payload.headers, **self._target.headers}
        return httpx.Request("POST", url, headers=headers, content=payload.body)

    async def _acquire(self) -> httpx.AsyncHTTPTransport:
        if self._idle:
            return self._idle.pop()
        if self._open < self._target.max_connections:
            self._open += 1
            return self._new_lane()
        turn: asyncio.Future[httpx.AsyncHTTPTransport] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release(turn.result())
            raise

    def _release(self, lane: httpx.AsyncHTTPTransport) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(lane)
                return
        self._idle.append(lane)

    async def _replace(self, lane: httpx.AsyncHTTPTransport) -> None:
        """Give the place of a lane that broke off to a fresh one.

        After a cancelled request httpcore may count its connection as taken for good: a lane would never answer again.
        """
        try:
            await lane.aclose()
        finally:
            self._release(self._new_lane())

    def _new_lane(self) -> httpx.AsyncHTTPTransport:
        return httpx.AsyncHTTPTransport(verify=self._tls, limits=self._limits)


def _reason(response: httpx.Response, body: bytes) -> tuple[str, str]:
    error = read_error(answer_of(response, body))
    return error.code or "", error.message


def _failure(sent: float, done: float, outcome: str, message: str, waited: bool) -> Exchange:
    return Exchange(
        sent=sent,
        done=done,
        outcome=outcome,
        ok=False,
        answered=False,
        waited_for_connection=waited,
        message=message,
    )
