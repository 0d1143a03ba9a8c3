"""One connection to the server: one request at a time, bytes out and an answer in.

A transport of httpx costs five times as much CPU per request, and a generator that needs more than the server measures
itself.
"""

from __future__ import annotations

import asyncio
import ssl

from batchd_client.loadtest.answer_parser import AnswerParser, BrokenAnswer, WireAnswer

IDLE_S = 3.0
"""Shorter than the 5 s after which common servers close an idle connection, so as not to race them."""


class LaneError(Exception):
    """The exchange failed on the wire."""


class ConnectFailed(LaneError):
    """No connection could be made."""


class Lane(asyncio.Protocol):
    """One connection, from its first request to its end. `post` is not for two callers at once."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        self._host = host
        self._port = port
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = AnswerParser()
        self._answer: asyncio.Future[WireAnswer] | None = None
        self._idle_since = self._loop.time()
        self._closed = False

    @property
    def usable(self) -> bool:
        """Whether another request may be sent here."""
        return not self._closed and self._loop.time() - self._idle_since <= IDLE_S

    async def post(self, request: bytes) -> WireAnswer:
        """Send a request, head and body, and return its answer.

        Raises:
            LaneError: there is no connection, or it broke.
        """
        if self._transport is None:
            try:
                await self._loop.create_connection(lambda: self, self._host, self._port, ssl=self._tls)
            except OSError as error:
                raise ConnectFailed(str(error) or type(error).__name__) from error
        assert self._transport is not None, "just connected"
        self._answer = self._loop.create_future()
        self._transport.write(request)
        answer = await self._answer
        self._answer = None
        self._idle_since = self._loop.time()
        if not answer.reusable:
            self.close()
        return answer

    def close(self) -> None:
        """End the connection."""
        self._closed = True
        if self._transport is not None:
            self._transport.abort()

    # ---- what asyncio calls ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the connection."""
        assert isinstance(transport, asyncio.Transport), "a stream transport"
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Hand over the answer that is complete."""
        try:
            answer = self._parser.feed(data)
        except BrokenAnswer as error:
            self._fail(LaneError(str(error)))
            return
        if answer is None:
            return
        if self._answer is None:  # nobody had asked
            self.close()
        elif not self._answer.done():
            self._answer.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        self._closed = True
        if self._answer is None or self._answer.done():
            return
        try:
            answer = self._parser.end()
        except BrokenAnswer as error:
            self._fail(LaneError(str(error)))
            return
        if answer is not None:
            self._answer.set_result(answer)
        else:
            self._fail(LaneError(str(exc) if exc else "the server closed the connection without an answer"))

    def _fail(self, error: LaneError) -> None:
        self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
