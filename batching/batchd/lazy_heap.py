"""A priority queue whose entries may die anywhere: dead ones are dropped when they surface, or outnumber the living.

What has been looked at stays sorted in front of the heap: looking again costs nothing, and each entry is sifted once.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Collection
from heapq import heapify, heappop, heappush

MIN_SWEEP = 64


class LazyHeap:
    """Tickets by key, smallest first. `alive` is shared with the owner, who decides which tickets still count.

    A ticket is used once: something that leaves and comes back comes back under a new one.
    """

    __slots__ = ("_alive", "_front", "_heap")

    def __init__(self, alive: Collection[int]) -> None:
        self._alive = alive
        self._front: list[tuple[float, int]] = []  # in order; none in the heap comes before its last
        self._heap: list[tuple[float, int]] = []

    def __len__(self) -> int:
        """Entries held, dead ones included."""
        return len(self._front) + len(self._heap)

    def push(self, key: float, ticket: int) -> None:
        """Add a ticket. Amortised logarithmic."""
        if len(self) > MIN_SWEEP + 2 * len(self._alive):  # nobody asks for the top, or it lives long
            self._front = self._living(self._front)
            self._heap = self._living(self._heap)
            heapify(self._heap)
        entry = (key, ticket)
        if self._front and entry < self._front[-1]:
            insort(self._front, entry)
        else:
            heappush(self._heap, entry)

    def top(self) -> int | None:
        """Return the living ticket of the smallest key, or None. Amortised logarithmic."""
        first = self._first()
        return None if first is None else first[1]

    def least(self) -> float:
        """Return the smallest key of a living ticket; infinity where none lives. Amortised logarithmic."""
        if self._front and self._front[0][1] in self._alive:
            return self._front[0][0]
        first = self._first()
        return math.inf if first is None else first[0]

    def smallest(self, count: int) -> list[int]:
        """Return up to `count` living tickets by key; they stay. O(count log n) for those not looked at before."""
        front = self._front = self._living(self._front)
        while self._heap and len(front) < count:
            entry = heappop(self._heap)
            if entry[1] in self._alive:
                front.append(entry)
        return [ticket for _, ticket in front[:count]]

    def _first(self) -> tuple[float, int] | None:
        if self._front:
            if self._front[0][1] in self._alive:
                return self._front[0]
            self._front = self._living(self._front)
            if self._front:
                return self._front[0]
        while self._heap:
            if self._heap[0][1] in self._alive:
                return self._heap[0]
            heappop(self._heap)
        return None

    def _living(self, entries: list[tuple[float, int]]) -> list[tuple[float, int]]:
        return [entry for entry in entries if entry[1] in self._alive]
