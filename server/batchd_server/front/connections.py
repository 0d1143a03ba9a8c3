"""One client's connection: uvicorn's HTTP protocol under limits on size, time and number.

uvicorn leaves all of these to a proxy in front of it. The limits hold before the application sees a request, so what is
refused here is answered here: once, in the form of the protocol that the path belongs to, and then the connection is
closed. Nothing is answered out of turn: where an earlier request on the connection still waits for its answer, that
answer is the last, and the refusal is silent.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import secrets
from typing import Any, NoReturn

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from batchd_server.config.settings import ServerSettings
from batchd_server.errors import BadRequest, HeadersTooLarge, RequestTimeout, ServingError, Unavailable
from batchd_server.front.connection_watch import ConnectionWatch, Reason
from batchd_server.front.error_responses import error_response
from batchd_server.front.pace import Pace, Stall
from batchd_server.front.request_ids import client_id
from batchd_server.front.secure_headers import secure_headers
from batchd_server.front.unsent import has_left, reset, unsent_bytes

MAX_PIPELINED = 16
"""Requests that may wait on one connection behind the one that is being answered."""
LINGER_S = 2.0
"""After a refusal, for the client to read it: closing on what it still sends would destroy the answer on its way."""

_log = logging.getLogger(__name__)
_uvicorn_log = logging.getLogger(f"{__name__}.uvicorn")
_uvicorn_log.setLevel(logging.ERROR)  # a warning per malformed request would let any client fill the log


def protocol_class(watch: ConnectionWatch) -> type[asyncio.Protocol]:
    """Return what uvicorn takes for `http`: connections that `watch` watches."""
    return functools.partial(LimitedConnection, watch=watch)  # type: ignore[return-value]


class LimitedConnection(HttpToolsProtocol):
    """Relies on the parser's callbacks, `cycle`, `pipeline`, `flow` and `_start_asgi_task` of uvicorn's class."""

    def __init__(self, *args: Any, watch: ConnectionWatch, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _uvicorn_log
        self.url = b""
        self._watch = watch
        self._limits: ServerSettings = watch.limits
        self._running: RequestResponseCycle | None = None  # uvicorn's `cycle` is the last that came
        self._head_since: float | None = None  # when the head of a request began to be awaited
        self._head_bytes = 0
        self._fresh = True  # no request has come yet
        self._begun = False  # something of a request has come, but not all of it
        self._body: Pace | None = None  # of the request that is coming in, once its head is whole
        self._fruitless = 0  # bytes of it since there was anything for the application among them
        self._ahead = watch.incoming.charge()  # for bodies that came ahead, of which no route knows yet
        self._ahead_bytes = 0
        self._stall = Stall()
        self._checked = 0.0
        self._problem: tuple[ServingError, Reason] | None = None  # what a callback has raised
        self._refused = False
        self._linger_until = math.inf

    # ---- the transport's calls ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, or say that there are too many."""
        super().connection_made(transport)
        self._watch.requests = self.tasks
        self._head_since = self._checked = self.loop.time()
        if not self._watch.enter(self, self.loop):
            if self._watch.may_tell():
                limit = self._limits.max_connections
                error = Unavailable(f"there are {limit} connections already", code="too_many_connections")
                self._refuse(error, "connections")
            else:
                self._watch.count("connections")
                transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that is being answered, which may not be the last that came."""
        super().connection_lost(exc)
        self._watch.leave(self)
        self._unset_keepalive_if_required()
        if self._running is not None and not self._running.response_complete:
            _disconnect(self._running)
        self.pipeline.clear()
        self._charge()

    def data_received(self, data: bytes) -> None:
        """Parse what has come, and count what no callback tells of: heads and trailers that never end."""
        if self._refused:
            return
        if self._body is not None:
            self._body.received += len(data)
            self._fruitless += len(data)
        else:
            if self._head_since is None:
                self._head_since = self.loop.time()
            self._head_bytes += len(data)
        super().data_received(data)
        limit = self._limits.max_header_bytes
        if (self._head_since is not None and self._head_bytes > limit) or self._fruitless > limit:
            self._refuse(self._too_large(), "header_bytes")

    # ---- the parser's calls ------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin to count the head; of one that came with other things, what comes from now on."""
        super().on_message_begin()
        self._begun = True
        if self._head_since is None:
            self._head_since, self._head_bytes = self.loop.time(), 0

    def on_headers_complete(self) -> None:
        """Hand the request to the application, unless its head is too large or too many wait before it."""
        self._head_since, self._head_bytes, self._fresh = None, 0, False
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self._limits.max_header_bytes:
            self._fail(self._too_large(), "header_bytes")
        if len(self.pipeline) >= MAX_PIPELINED:
            self._fail(BadRequest(f"more than {MAX_PIPELINED} requests wait on this connection"), "pipelined")
        self.scope["headers"] = self.headers.copy()  # the parser adds trailers to its own, after all checks
        super().on_headers_complete()  # which raises where there is no path in the request line
        self._body = Pace(self.loop.time(), self._limits.body_timeout_s, self._limits.min_body_rate)
        if self.pipeline:
            self.flow.resume_reading()  # uvicorn reads no more until its turn, and would not see the client leave

    def on_body(self, body: bytes) -> None:
        """Take a part of the body; of one that came ahead, as far as there is room for it."""
        self._fruitless = 0
        if self.pipeline:
            try:
                self._charge(len(body))
            except Unavailable as error:
                self._fail(error, "pipelined")
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole. If it was answered before that, the wait for the next begins here."""
        super().on_message_complete()
        self._begun, self._body, self._fruitless = False, None, 0
        if self.cycle.response_complete:
            self._head_since = self.loop.time()

    # ---- uvicorn's calls ---------------------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)
        self._charge()

    def on_response_complete(self) -> None:
        """Go on with the next request. What is left of the body of this one may not take for ever, however fast."""
        super().on_response_complete()
        if self._body is not None and self.cycle.response_complete:
            self._body = Pace(self.loop.time(), self._limits.body_timeout_s, math.inf)

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser did not understand, or what a callback raised."""
        error, reason = self._problem or (BadRequest("this is not HTTP/1.1"), "malformed")
        self._refuse(error, reason)

    # ---- limits ------------------------------------------------------------------------------------------------------

    def check(self, now: float, lost_s: float) -> None:
        """End the connection if its client is too slow. Time that we slept, or did not read, is not the client's."""
        not_read_s = now - self._checked if self.flow.read_paused else lost_s
        self._checked = now
        self._stall.since += lost_s
        if self._head_since is not None:
            self._head_since += not_read_s
        if self._body is not None:
            self._body.started += not_read_s
        if self._stall.seconds(unsent_bytes(self.transport), now) > self._limits.send_timeout_s:
            self._watch.count("send_timeout")
            reset(self.transport)
        elif self.flow.read_paused and has_left(self.transport):
            self.transport.close()  # as the transport does where it reads
        elif now > self._linger_until:
            self.transport.abort()
        elif self._refused:
            return
        elif self._head_since is not None and now > self._head_since + self._limits.header_timeout_s:
            if self._fresh or self._head_bytes:
                late = f"the head of the request did not come within {self._limits.header_timeout_s:g} s"
                self._refuse(RequestTimeout(late), "header_timeout")
            else:
                self.transport.close()
        elif self._body is not None and now > self._body.deadline:
            self._refuse(RequestTimeout("the body of the request comes too slowly"), "body_timeout")

    def _refuse(self, error: ServingError, reason: Reason) -> None:
        """Take nothing more from the client; tell it why, if it is not owed another answer first."""
        if self._refused:
            return
        self._refused = True
        self._watch.count(reason)
        request_id = (client_id(self.headers) if self._begun else None) or secrets.token_hex(8)
        _log.debug("connection of %s ended: %s", self.client, error.message, extra={"request_id": request_id})
        self._unset_keepalive_if_required()
        self.flow.resume_reading()  # to see the client leave
        if self._body is not None:
            if self.pipeline and self.pipeline[0][0] is self.cycle:
                self.pipeline.popleft()  # it will never be whole, and has not begun
            elif self.cycle.response_started:
                self.transport.close()
                return
            elif self.cycle is self._running:
                _disconnect(self.cycle)
                self._running = None
        self._charge()
        owed = self.pipeline[0][0] if self.pipeline else self._running
        if owed is not None and not owed.response_complete:
            owed.keep_alive = False
            return
        self._answer(error, request_id)

    def _answer(self, error: ServingError, request_id: str) -> None:
        path = self.url.partition(b"?")[0].decode("ascii", "replace")
        response = error_response(error, path, request_id)
        headers = [*self.server_state.default_headers, *response.raw_headers, (b"connection", b"close")]
        headers.append((b"x-request-id", request_id.encode()))
        headers += secure_headers("GET", headers)
        lines = [STATUS_LINE[response.status_code], *(b"%s: %s\r\n" % header for header in headers), b"\r\n"]
        self.transport.write(b"".join(lines) + bytes(response.body))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._linger_until = self.loop.time() + LINGER_S

    def _charge(self, more: int = 0) -> None:
        """Count what waits of bodies that came ahead, and `more` of them, among the incoming bytes.

        Raises:
            Unavailable: there is no room for that many bytes more.
        """
        waiting = more + sum(len(cycle.body) for cycle, _ in self.pipeline)
        if waiting > self._ahead_bytes:
            self._ahead.take(waiting - self._ahead_bytes)
        elif waiting < self._ahead_bytes:
            self._ahead.give_back(self._ahead_bytes - waiting)
        self._ahead_bytes = waiting

    def _fail(self, error: ServingError, reason: Reason) -> NoReturn:
        """Have the parser stop, from one of its callbacks; `send_400_response` is called next."""
        self._problem = error, reason
        raise error

    def _too_large(self) -> ServingError:
        return HeadersTooLarge(
            f"request line and headers are larger than the {self._limits.max_header_bytes} bytes that are accepted"
        )


def _disconnect(cycle: RequestResponseCycle) -> None:
    cycle.disconnected = True
    cycle.message_event.set()
