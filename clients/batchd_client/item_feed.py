"""Hands items to concurrent workers and puts their results back in order."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sized
from contextlib import contextmanager
from threading import Lock
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class ItemFeed(Generic[Item, Result]):
    """An iterable that several workers, in threads or tasks, iterate at the same time.

    Items are drawn only when a worker is free, so that a generator of large arrays is not held in memory at once.
    The first failure ends it for all. `workers` is how many may be of use at once.

    Raises:
        ValueError: fewer than one worker.
    """

    def __init__(self, items: Iterable[Item], *, workers: int) -> None:
        if workers < 1:
            raise ValueError(f"concurrency must be at least 1, not {workers}")
        self.workers = max(1, min(workers, len(items))) if isinstance(items, Sized) else workers
        self._items = enumerate(items)
        self._lock = Lock()
        self._open = True
        self._results: dict[int, Result] = {}

    def __iter__(self) -> Iterator[tuple[int, Item]]:
        while True:
            with self._lock:
                if not self._open:
                    return
                self._open = False  # stays so where the items end or raise
                numbered = next(self._items, None)
                if numbered is None:
                    return
                self._open = True
            yield numbered

    @contextmanager
    def working_on(self, index: int) -> Generator[None]:
        """Close the feed where the block fails, and note at the exception which item it was."""
        try:
            yield
        except BaseException as error:
            self.close()
            error.add_note(f"batchd: while inferring item {index}")
            raise

    def close(self) -> None:
        """Hand out no more items."""
        with self._lock:
            self._open = False

    def put(self, index: int, result: Result) -> None:
        """Keep a result. Each index is put once, by one worker."""
        self._results[index] = result

    def results(self) -> list[Result]:
        """Return the results in the order of the items, once all are there."""
        return [self._results[index] for index in range(len(self._results))]
