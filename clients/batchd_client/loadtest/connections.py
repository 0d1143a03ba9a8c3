"""Connections to the server, one request at a time on each, without a shared pool: the one used last is used next."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self, TypeAlias

import httpx

from batchd_client.error_answers import read_error
from batchd_client.loadtest.answer import timing_of
from batchd_client.loadtest.answer_parser import WireAnswer
from batchd_client.loadtest.lane import ConnectFailed, Lane, LaneError
from batchd_client.loadtest.payload import Payload
from batchd_client.loadtest.sample import NO_TIMING, Exchange
from batchd_client.loadtest.target import Target
from batchd_client.wire import Answer

Read: TypeAlias = Callable[[Payload, Mapping[str, str], bytes], None]
"""Sees every answer with status 200: what was asked, the answer's headers and its body."""


class Connections:
    """Sends payloads over at most `target.max_connections` connections. Lives within one event loop.

    Answers are not looked into, unless there is a `read`; what that costs is the generator's time, not the requests'.
    """

    def __init__(self, target: Target, *, read: Read | None = None) -> None:
        self._target = target
        self._read = read
        url = target.address("")
        self._tls = httpx.create_ssl_context() if url.scheme == "https" else None
        self._host = url.host
        self._port = url.port or (443 if self._tls is not None else 80)
        self._idle: list[Lane] = []
        self._open = 0
        self._waiting: deque[asyncio.Future[Lane]] = deque()
        self._requests: dict[Payload, bytes] = {}

    async def __aenter__(self) -> Self:
        """Open nothing yet: connections are made when they are first needed."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every idle connection."""
        for lane in self._idle:
            lane.close()
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
            if not whole:
                lane.close()
            self._release(lane)

    async def _exchange(self, lane: Lane, payload: Payload, request: bytes, waited: bool) -> Exchange:
        now = asyncio.get_running_loop().time
        sent = now()
        try:
            async with asyncio.timeout(self._target.timeout_s):
                answer = await lane.post(request)
        except TimeoutError:
            return _failure(sent, now(), "timeout", f"no answer within {self._target.timeout_s:g} s", waited)
        except LaneError as error:
            outcome = "connect error" if isinstance(error, ConnectFailed) else "connection lost"
            return _failure(sent, now(), outcome, str(error), waited)
        done = now()
        ok = answer.status == 200
        if ok and self._read is not None:
            self._read(payload, answer.headers, answer.body)
        refusal = None if ok else read_error(_answer_of(answer))
        return Exchange(
            sent=sent,
            done=done,
            outcome=f"{answer.status} {'' if refusal is None else refusal.code or ''}".rstrip(),
            ok=ok,
            answered=True,
            waited_for_connection=waited,
            timing=timing_of(answer.headers, answer.body) if ok else NO_TIMING,
            message="" if refusal is None else refusal.message,
            retry_after_s=None if refusal is None else refusal.retry_after_s,
        )

    def _prepare(self, payload: Payload) -> bytes:
        url = self._target.address(payload.path)
        headers = {"content-type": "application/json", **payload.headers, **self._target.headers}
        request = httpx.Request("POST", url, headers=headers, content=payload.body)
        lines = [b"POST " + request.url.raw_path + b" HTTP/1.1"]
        lines += [name + b": " + value for name, value in request.headers.raw]
        return b"\r\n".join(lines) + b"\r\n\r\n" + payload.body

    async def _acquire(self) -> Lane:
        if self._idle:
            return self._fresh(self._idle.pop())
        if self._open < self._target.max_connections:
            self._open += 1
            return self._new_lane()
        turn: asyncio.Future[Lane] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return self._fresh(await turn)
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release(turn.result())
            raise

    def _fresh(self, lane: Lane) -> Lane:
        """Return a lane, or another in its place where it has ended or idled for long."""
        if lane.usable:
            return lane
        lane.close()
        return self._new_lane()

    def _release(self, lane: Lane) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(lane)
                return
        self._idle.append(lane)

    def _new_lane(self) -> Lane:
        return Lane(self._host, self._port, self._tls)


def _answer_of(answer: WireAnswer) -> Answer:
    return Answer(status=answer.status, headers=answer.headers, body=answer.body, received=time.time())


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
