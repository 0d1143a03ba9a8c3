"""The items of one model that wait, grouped by padded shape, most urgent first within each group.

Items of one group cost the same in any batch, so which of them to take is only a question of urgency. Items that must
run alone wait like all others, but are in no group: nobody finds them when a batch is formed.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
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
    elements: int
    """What it adds to a batch of its own padded shape; its own where items lie end to end."""
    promised: float
    """When its answer is promised by: within the SLO, and by its own deadline. Training may not break that."""

    def would_finish(self, now: float) -> float:
        """Return when its answer would be there if it ran alone from `now`."""
        return now + self.item.deadline - self.latest_start


class Group:
    """All waiting items of one padded shape; where items lie end to end, all that wait."""

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
        self._order: list[Group] = []  # the same, by padded volume
        self._urgencies = LazyHeap(self._alive)
        self._latest_starts = LazyHeap(self._alive)
        self._arrivals = LazyHeap(self._alive)
        self.backlog = Backlog(urgency_resolution_s)
        """By urgency: what goes before a newcomer."""
        self._due: Backlog | None = None  # by promise; kept once it has been asked for
        self._resolution_s = urgency_resolution_s

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
        if not waiting.item.alone:
            self._join_group(waiting, ticket)
        self._urgencies.push(waiting.urgency, ticket)
        self._latest_starts.push(waiting.latest_start, ticket)
        self._arrivals.push(waiting.item.arrived, ticket)
        self.backlog.add(waiting.urgency, waiting.own_cost)
        if self._due is not None:
            self._due.add(waiting.promised, waiting.own_cost)

    def _join_group(self, waiting: Waiting, ticket: int) -> None:
        group = self._groups.get(waiting.padded_shape)
        if group is None:
            group = self._groups[waiting.padded_shape] = Group(waiting.padded_shape, self._alive)
            insort(self._order, group, key=_volume)
        group.count += 1
        group.urgencies.push(waiting.urgency, ticket)
        group.deadlines.push(waiting.item.deadline, ticket)

    def remove(self, item_id: ItemId) -> Waiting:
        """Let an item out, for whatever reason.

        Raises:
            KeyError: it does not wait here.
        """
        waiting = self._alive[self._tickets[item_id]]
        self.remove_all((waiting,))
        return waiting

    def remove_all(self, leaving: Sequence[Waiting]) -> None:
        """Let items out that wait here."""
        tickets, alive, groups, backlog, due = self._tickets, self._alive, self._groups, self.backlog, self._due
        for waiting in leaving:
            del alive[tickets.pop(waiting.item.id)]
            if not waiting.item.alone:
                group = groups[waiting.padded_shape]
                group.count -= 1
                if group.count == 0:
                    del groups[group.padded_shape]
                    del self._order[bisect_left(self._order, _volume(group), key=_volume)]
            backlog.remove(waiting.urgency, waiting.own_cost)
            if due is not None:
                due.remove(waiting.promised, waiting.own_cost)

    @property
    def due(self) -> Backlog:
        """By what is promised: what must be done by when."""
        if self._due is None:
            self._due = Backlog(self._resolution_s)
            for waiting in self:
                self._due.add(waiting.promised, waiting.own_cost)
        return self._due

    def groups(self) -> Sequence[Group]:
        """Return the non-empty groups, smallest padded volume first: a view, valid until an item comes or goes."""
        return self._order

    def group_of(self, waiting: Waiting) -> Group:
        """Return the group that an item waits in; one that must run alone is in none."""
        return self._groups[waiting.padded_shape]

    def most_urgent(self) -> Waiting | None:
        """Return the item with the least urgency value of all, or None."""
        ticket = self._urgencies.top()
        return None if ticket is None else self._alive[ticket]

    def take(self, group: Group, count: int) -> list[Waiting]:
        """Return the `count` most urgent items of a group; they go on waiting."""
        return [self._alive[ticket] for ticket in group.urgencies.smallest(count)]

    def first_hopeless(self) -> Waiting | None:
        """Return the item with the earliest latest start, or None."""
        ticket = self._latest_starts.top()
        return None if ticket is None else self._alive[ticket]

    def oldest(self) -> Waiting | None:
        """Return the item that arrived first, or None."""
        ticket = self._arrivals.top()
        return None if ticket is None else self._alive[ticket]


def _volume(group: Group) -> tuple[int, Shape]:
    return group.elements, group.padded_shape
