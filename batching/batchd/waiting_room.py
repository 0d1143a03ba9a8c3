"""The items of one model that wait, grouped by padded shape, most urgent first within each group.

Items of one group cost the same in any batch, so which of them to take is only a question of urgency.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass

from batchd.backlog import Backlog
from batchd.item import Item, ItemId, Shape, num_elements
from batchd.lazy_heap import LazyHeap


@dataclass(frozen=True, slots=True)
class Waiting:
    """An item in the room."""

    item: Item
    padded_shape: Shape
    latest_start: float
    """Monotonic time after which it can no longer be answered in time, as far as was known when it came."""
    urgency: float
    """The deadline, shifted by priority; less is more urgent. Time does the ageing: nobody starves."""
    own_cost: float
    """Seconds it adds to a batch of its own padded shape, as far as was known when it came."""


class Group:
    """All waiting items of one padded shape."""

    __slots__ = ("count", "deadlines", "elements", "padded_shape", "urgencies")

    def __init__(self, padded_shape: Shape, alive: dict[int, Waiting]) -> None:
        self.padded_shape = padded_shape
        self.elements = num_elements(padded_shape)
        self.count = 0
        self.urgencies = LazyHeap(alive)
        self.deadlines = LazyHeap(alive)


class WaitingRoom:
    """Items come and go in logarithmic time; the groups are always at hand in order of padded volume."""

    def __init__(self, urgency_resolution_s: float) -> None:
        self._alive: dict[int, Waiting] = {}  # by ticket
        self._tickets: dict[ItemId, int] = {}
        self._next_ticket = 0
        self._groups: dict[Shape, Group] = {}
        self._order: list[tuple[int, Shape]] = []  # non-empty groups by padded volume
        self._latest_starts = LazyHeap(self._alive)
        self._arrivals = LazyHeap(self._alive)
        self.backlog = Backlog(urgency_resolution_s)

    def __len__(self) -> int:
        return len(self._alive)

    def __contains__(self, item_id: ItemId) -> bool:
        return item_id in self._tickets

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self._alive.values())

    def add(self, waiting: Waiting) -> None:
        """Let an item in."""
        ticket = self._next_ticket
        self._next_ticket += 1
        self._alive[ticket] = waiting
        self._tickets[waiting.item.id] = ticket
        group = self._groups.get(waiting.padded_shape)
        if group is None:
            group = self._groups[waiting.padded_shape] = Group(waiting.padded_shape, self._alive)
            insort(self._order, (group.elements, group.padded_shape))
        group.count += 1
        group.urgencies.push(waiting.urgency, ticket)
        group.deadlines.push(waiting.item.deadline, ticket)
        self._latest_starts.push(waiting.latest_start, ticket)
        self._arrivals.push(waiting.item.arrived, ticket)
        self.backlog.add(waiting.urgency, waiting.own_cost)

    def remove(self, item_id: ItemId) -> Waiting:
        """Let an item out, for whatever reason.

        Raises:
            KeyError: it does not wait here.
        """
        waiting = self._alive.pop(self._tickets.pop(item_id))
        group = self._groups[waiting.padded_shape]
        group.count -= 1
        if group.count == 0:
            del self._groups[group.padded_shape]
            del self._order[bisect_left(self._order, (group.elements, group.padded_shape))]
        self.backlog.remove(waiting.urgency, waiting.own_cost)
        return waiting

    def groups(self) -> list[Group]:
        """Return the non-empty groups, smallest padded volume first."""
        return [self._groups[shape] for _, shape in self._order]

    def group_of(self, waiting: Waiting) -> Group:
        """Return the group that an item waits in."""
        return self._groups[waiting.padded_shape]

    def most_urgent(self) -> Waiting | None:
        """Return the item with the least urgency value of all, or None. Linear in the groups."""
        tickets = [ticket for group in self._groups.values() if (ticket := group.urgencies.top()) is not None]
        if not tickets:
            return None
        return self._alive[min(tickets, key=lambda ticket: (self._alive[ticket].urgency, ticket))]

    def take(self, group: Group, count: int) -> list[Waiting]:
        """Return the `count` most urgent items of a group; they go on waiting."""
        return [self._alive[ticket] for ticket in group.urgencies.smallest(count)]

    def earliest_deadline(self, group: Group) -> float:
        """Return the earliest deadline in a group."""
        ticket = group.deadlines.top()
        assert ticket is not None, "an empty group is not kept"
        return self._alive[ticket].item.deadline

    def first_hopeless(self) -> Waiting | None:
        """Return the item with the earliest latest start, or None."""
        ticket = self._latest_starts.top()
        return None if ticket is None else self._alive[ticket]

    def oldest(self) -> Waiting | None:
        """Return the item that arrived first, or None."""
        ticket = self._arrivals.top()
        return None if ticket is None else self._alive[ticket]
