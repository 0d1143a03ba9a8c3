"""A priority queue whose entries may die anywhere: dead ones are dropped when they surface, or outnumber the living."""

from __future__ import annotations

import math
from collections.abc import Collection
from heapq import heapify, heappop, heappush

MIN_SWEEP = 64


class LazyHeap:
    """Tickets by key, smallest first. `alive` is shared with the owner, who decides which tickets still count.

    A ticket is used once: something that leaves and comes back comes back under a new one.
    """

    __slots__ = ("_alive", "_heap")

    def __init__(self, alive: Collection[int]) -> None:
        self._alive = alive
        self._heap: list[tuple[float, int]] = []

    def __len__(self) -> int:
        """Entries held, dead ones included."""
        return len(self._heap)

    def push(self, key: float, ticket: int) -> None:
        """Add a ticket. Amortised logarithmic."""
        if len(self._heap) > MIN_SWEEP + 2 * len(self._alive):  # nobody asks for the top, or it lives long
            self._heap = [entry for entry in self._heap if entry[1] in self._alive]
            heapify(self._heap)
        heappush(self._heap, (key, ticket))

    def top(self) -> int | None:
        """Return the living ticket of the smallest key, or None. Amortised logarithmic."""
        while self._heap:
            ticket = self._heap[0][1]
            if ticket in self._alive:
                return ticket
            heappop(self._heap)
        return None

    def least(self) -> float:
        """Return the smallest key of a living ticket; infinity where none lives. Amortised logarithmic."""
        return self._heap[0][0] if self.top() is not None else math.inf

    def smallest(self, count: int) -> list[int]:
        """Return up to `count` living tickets by key; they stay in the heap. O(count log n)."""
        entries: list[tuple[float, int]] = []
        while self._heap and len(entries) < count:
            entry = heappop(self._heap)
            if entry[1] in self._alive:
                entries.append(entry)
        for entry in entries:
            heappush(self._heap, entry)
        return [ticket for _, ticket in entries]
