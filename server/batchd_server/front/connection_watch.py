"""All connections of one front: how many there may be, which of them are over their time, and why others were ended."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Literal, Protocol

from batchd_server.config.settings import ServerSettings
from batchd_server.front.limits import IncomingBytes

MAX_TURNED_AWAY = 256
"""Connections over the limit that are told so at a time; those over that are closed without a word."""
SLOWEST_SWEEP_S = 1.0
SWEEPS_PER_TIMEOUT = 4

Reason = Literal[
    "connections", "header_bytes", "header_timeout", "body_timeout", "send_timeout", "malformed", "pipelined"
]
"""Why a connection was ended: the limit that it met."""


class Watched(Protocol):
    """One connection."""

    def check(self, now: float, lost_s: float) -> None:
        """End it if it is over its time, of which this process has slept through `lost_s`."""
        ...


class ConnectionWatch:
    """Counts and checks the connections of one event loop.

    One sweep looks at all of them a few times per timeout, instead of a timer for each that every packet would move. It
    runs only while there are connections.
    """

    def __init__(self, limits: ServerSettings, on_ended: Callable[[Reason], None] | None = None) -> None:
        self.limits = limits
        self.incoming = IncomingBytes(limits.max_incoming_bytes)
        self._on_ended = on_ended
        self.ended: Counter[Reason] = Counter()
        self.requests: set[asyncio.Task[None]] = set()
        """Requests in progress; uvicorn's own set, once there has been a connection."""
        self._open: set[Watched] = set()
        self._turned_away: set[Watched] = set()
        self._timer: asyncio.TimerHandle | None = None
        timeouts = (limits.header_timeout_s, limits.body_timeout_s, limits.send_timeout_s)
        self._period_s = min(SLOWEST_SWEEP_S, *(timeout / SWEEPS_PER_TIMEOUT for timeout in timeouts))

    @property
    def num_open(self) -> int:
        """Connections that are being served."""
        return len(self._open)

    def count(self, reason: Reason) -> None:
        """Count a connection that is ended."""
        self.ended[reason] += 1
        if self._on_ended is not None:
            self._on_ended(reason)

    def may_tell(self) -> bool:
        """Return whether one more connection over the limit can be told so."""
        return len(self._turned_away) <= MAX_TURNED_AWAY

    def enter(self, connection: Watched, loop: asyncio.AbstractEventLoop) -> bool:
        """Take a new connection in, until `leave`; False if there are too many to serve it."""
        served = len(self._open) < self.limits.max_connections
        (self._open if served else self._turned_away).add(connection)
        if self._timer is None:
            self._sweep_later(loop)
        return served

    def leave(self, connection: Watched) -> None:
        """Forget a connection that is no more."""
        self._open.discard(connection)
        self._turned_away.discard(connection)

    def _sweep(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        now = loop.time()
        for connection in (*self._open, *self._turned_away):
            connection.check(now, now - due)
        self._timer = None
        if self._open or self._turned_away:
            self._sweep_later(loop)

    def _sweep_later(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + self._period_s
        self._timer = loop.call_at(due, self._sweep, loop, due)
