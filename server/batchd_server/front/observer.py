"""What the front tells of every finished request, for the metrics that live in the device process."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol

from batchd_server.errors import ServingError
from batchd_server.front.disconnects import ClientGone

_OUTCOMES_BY_CODE = {
    "queue_full": "rejected_queue",
    "deadline_infeasible": "rejected_deadline",
    "insufficient_memory": "rejected_memory",
    "deadline_exceeded": "deadline_exceeded",
}


class Observer(Protocol):
    """Takes one row per finished inference request. Called on the event loop: must not block."""

    def observe(self, model: str, api: str, outcome: str, duration_s: float, overhead_s: float) -> None:
        """Record one request. `model` is empty where the request named no configured one."""
        ...


class NoObserver:
    """Keeps nothing."""

    def observe(self, model: str, api: str, outcome: str, duration_s: float, overhead_s: float) -> None:
        """Drop the row."""


def outcome_of(error: BaseException | None) -> str:
    """Return the metric label for how a request ended."""
    match error:
        case None:
            return "ok"
        case ServingError(code=code) if code in _OUTCOMES_BY_CODE:
            return _OUTCOMES_BY_CODE[code]
        case ServingError(status=status):
            if status == 429:
                return "rejected_queue"
            if status == 503:
                return "unavailable"
            return "client_error" if status < 500 else "error"
        case Exception() if not isinstance(error, ClientGone):
            return "error"
        case _:  # the client has left, or the server cancels what it can no longer finish
            return "cancelled"


class Observation:
    """One request from its first line to its answer; reports itself when its block ends, however it ends."""

    __slots__ = ("_api", "_observer", "arrived", "model", "waited_s")

    def __init__(self, observer: Observer, api: str) -> None:
        self._observer = observer
        self._api = api
        self.arrived = time.monotonic()
        self.model = ""
        self.waited_s = 0.0
        """Time spent waiting for the device side; the rest is the front's own work."""

    def __enter__(self) -> Observation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        duration = time.monotonic() - self.arrived
        self._observer.observe(self.model, self._api, outcome_of(error), duration, max(duration - self.waited_s, 0.0))
