"""Tells every front process how this one stands: when it says hello, on every change, and once a second."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from batchd_server.device.answering import Send
from batchd_server.link.messages import Announce

log = logging.getLogger(__name__)

HEARTBEAT_S = 1.0


def process_lives(pid: int) -> bool:
    """Return whether there is a process of that id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Announcing:
    """Knows the front processes by their link identities."""

    def __init__(self, send: Send, *, process_lives: Callable[[int], bool]) -> None:
        self._send = send
        self._process_lives = process_lives
        self._pids: dict[bytes, int | None] = {}  # None until the front has said hello
        self._last: Announce | None = None
        self._next = 0.0

    @property
    def next_at(self) -> float:
        """When the next heartbeat is due, in monotonic seconds."""
        return self._next

    def pids(self) -> tuple[int, ...]:
        """Return the front processes that said hello."""
        return tuple(sorted(pid for pid in self._pids.values() if pid is not None))

    def seen(self, front: bytes, pid: int | None = None) -> None:
        """Note a front process; one that is new or says hello is told the state at once."""
        if front not in self._pids or pid is not None:
            if front not in self._pids:
                log.info("front %s (pid %s) is connected", front.decode(errors="replace"), pid)
            self._pids[front] = pid
            if self._last is not None:
                self._send(front, self._last, ())

    def forget(self, front: bytes) -> None:
        """Announce nothing more to a front."""
        self._pids.pop(front, None)

    def announce(self, state: Announce, now: float) -> tuple[bytes, ...]:
        """Send `state` if it has changed or the heartbeat is due; return the fronts that have gone since."""
        due = now >= self._next
        if not due and state == self._last:
            return ()
        self._last = state
        self._next = now + HEARTBEAT_S
        return tuple(front for front, pid in tuple(self._pids.items()) if not self._reach(front, pid, state))

    def _reach(self, front: bytes, pid: int | None, state: Announce) -> bool:
        if pid is not None and not self._process_lives(pid):
            return False
        return self._send(front, state, ())
