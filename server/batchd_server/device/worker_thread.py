"""A thread that takes one piece of work after another: what the executor, the loader and the workshop share."""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

T = TypeVar("T")


class WorkerThread(ABC, Generic[T]):
    """`_main` takes from `_inbox` until it finds None."""

    def __init__(self, name: str) -> None:
        self._inbox: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    def start(self) -> None:
        """Begin to take work."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Finish what was submitted, then end; False where that takes longer than `timeout_s`."""
        self._inbox.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def submit(self, work: T) -> None:
        """Queue `work`; returns at once."""
        self._inbox.put(work)

    @abstractmethod
    def _main(self) -> None:
        """Work, on the thread."""
