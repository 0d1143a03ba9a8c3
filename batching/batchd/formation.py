"""Which of the waiting items run together: the batch around the most urgent one that makes most of the device's time.

Candidates are runs of the size order that contain the anchor. The one with the largest

    gain = useful work - price * predicted time

wins, where the useful work of an item is the seconds it would add to a batch of its own size, and the price is the
share of useful work in the device's time of late: the price of a second. (Maximising a long-run ratio of reward to time
is maximising reward - ratio * time at each step: W. Dinkelbach, On nonlinear fractional programming, 1967. Maximising
each batch's own ratio instead puts a short anchor among long items, which dilutes its waste and makes it larger.)

So an item joins a batch if its useful work is at least `price` of what it costs there, padded to the largest
member. Whole groups of equal padded shape are weighed at once: the cost is quadratic in the distinct padded shapes and
does not depend on the length of the queue.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from batchd.decision import ReleaseReason
from batchd.item import Shape
from batchd.waiting_room import Group, Waiting, WaitingRoom

UNBOUNDED = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class CostLaw:
    """The expected seconds of a batch, and the factor `upper` that makes them safe.

    `fixed + B * (per_item + per_element * E + per_square * E^2) + per_volume_square * (B * E)^2`
    """

    fixed: float
    per_item: float
    per_element: float
    per_square: float
    per_volume_square: float
    upper: float

    def item_cost(self, elements: int) -> float:
        """Return the seconds that one item of `elements` padded elements adds to a batch that is not too large."""
        return self.per_item + elements * (self.per_element + elements * self.per_square)

    def batch_cost(self, batch_size: int, elements: int) -> float:
        """Return the expected seconds of a batch."""
        return self.fixed + batch_size * (self.item_cost(elements) + batch_size * self.crowding(elements))

    def crowding(self, elements: int) -> float:
        """Return the seconds that items add for each other: a batch of B pays B^2 of them."""
        return self.per_volume_square * elements * elements

    def largest_batch(self, elements: int, seconds: float) -> int:
        """Return how many items fit into `seconds`, counted on the safe side; may be 0."""
        room = seconds / self.upper - self.fixed
        cost, crowding = self.item_cost(elements), self.crowding(elements)
        if room <= 0:
            return 0
        if crowding > 0:
            return int((math.sqrt(cost * cost + 4 * crowding * room) - cost) / (2 * crowding))
        return int(room / cost) if cost > 0 else UNBOUNDED


@dataclass(frozen=True, slots=True)
class Formed:
    """A batch that could be launched now."""

    members: tuple[Waiting, ...]
    limited_by: ReleaseReason | None  # what kept it from growing; None = nothing but the queue and the gain

    def largest(self) -> Shape:
        """Return the smallest shape that holds every member."""
        return tuple(map(max, zip(*(waiting.item.shape for waiting in self.members), strict=True)))


@dataclass(slots=True)
class _Run:
    """A candidate: how many of which group."""

    top: Group
    takes: list[tuple[Group, int]]
    gain: float
    limited_by: ReleaseReason | None


def form_batch(
    room: WaitingRoom, anchor: Waiting, law: CostLaw, price: float, now: float, max_batch: Callable[[int], int]
) -> Formed:
    """Return the best batch that contains `anchor`.

    `max_batch` gives the largest batch size allowed for a number of padded elements per item (limits and memory). A
    member whose deadline is closer than the batch's upper time keeps the batch small, except that the anchor itself is
    always taken: by then running it late is the best that can be done for it.
    """
    groups = room.groups()
    home = room.group_of(anchor)
    best: _Run | None = None
    alone = law.batch_cost(1, home.elements)
    for index, top in enumerate(groups):
        if top.elements < home.elements or not _fits(home.padded_shape, top.padded_shape):
            continue
        if top is not home and law.item_cost(top.elements) > alone:
            break  # and so for all that follow: the anchor would cost more there than in a batch of its own
        run = _grow(room, groups[: index + 1], anchor, law, price, now, max_batch(top.elements))
        if best is None or run.gain > best.gain:
            best = run
    assert best is not None, "the anchor's own group is always a candidate"
    return _collect(room, anchor, best)


def _grow(
    room: WaitingRoom, groups: list[Group], anchor: Waiting, law: CostLaw, price: float, now: float, max_batch: int
) -> _Run:
    """Fill a batch padded to the last of `groups`, from large items to small ones."""
    top = groups[-1]
    cost = law.item_cost(top.elements)
    home = room.group_of(anchor)
    deadline = anchor.item.deadline
    size = 1
    crowding = law.crowding(top.elements)
    gain = law.item_cost(home.elements) - price * (law.fixed + cost + crowding)
    takes: list[tuple[Group, int]] = []
    limited_by: ReleaseReason | None = None
    for group in reversed(groups):
        if not _fits(group.padded_shape, top.padded_shape):
            continue
        worth = law.item_cost(group.elements) - price * cost
        if worth < 0:
            break
        available = group.count - (1 if group is home else 0)
        room_left = min(max_batch, _worthwhile_size(worth, price * crowding)) - size
        if available > room_left:
            available, limited_by = max(0, room_left), ReleaseReason.FULL
        earliest = min(deadline, room.earliest_deadline(group))
        in_time = law.largest_batch(top.elements, earliest - now) - size
        if available > in_time:
            available, limited_by = max(0, in_time), ReleaseReason.DEADLINE
        if available > 0:
            takes.append((group, available))
            deadline = earliest
            gain += available * (worth - price * crowding * (2 * size + available))
            size += available
        if size >= max_batch:
            limited_by = ReleaseReason.FULL
            break
    return _Run(top, takes, gain, limited_by)


def _worthwhile_size(worth: float, crowding: float) -> int:
    """The batch size up to which one more item is worth what it adds, its crowding of the others included."""
    return int((worth / crowding + 1) / 2) if crowding > 0 else UNBOUNDED


def _collect(room: WaitingRoom, anchor: Waiting, run: _Run) -> Formed:
    members = [anchor]
    for group, count in run.takes:
        chosen = [waiting for waiting in room.take(group, count + 1) if waiting is not anchor]
        members += chosen[:count]
    return Formed(tuple(members), run.limited_by)


def _fits(shape: Shape, into: Shape) -> bool:
    """Shapes of another number of dimensions never share a batch."""
    return len(shape) == len(into) and all(size <= limit for size, limit in zip(shape, into, strict=True))
