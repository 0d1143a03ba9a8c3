"""Which of the waiting items run together: the batch around the most urgent one that makes most of the device's time.

Candidates are runs of the size order that contain the anchor. The one with the largest

    gain = useful work - price * predicted time

wins, where the useful work of an item is the seconds it would add to a batch of its own size and its share of a batch's
fixed cost, and the price is the share of useful work in the device's time of late: the price of a second. (Maximising a
long-run ratio of reward to time is maximising reward - ratio * time at each step: W. Dinkelbach, On nonlinear
fractional programming, 1967. Maximising each batch's own ratio instead puts a short anchor among long items, which
dilutes its waste and makes it larger.)

So an item joins a batch if its useful work is at least `price` of what it costs there, padded to the largest
member. Whole groups of equal padded shape are weighed at once: the cost is quadratic in the distinct padded shapes and
does not depend on the length of the queue.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import le

from batchd.decision import ReleaseReason
from batchd.item import Shape, num_elements
from batchd.latency_model import LARGEST
from batchd.load import Load
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
    reach: int = LARGEST
    """Elements of one item beyond which nothing is known: see `LatencyModel.reach`."""

    def item_cost(self, elements: int) -> float:
        """Return the seconds that one item of `elements` padded elements adds to a batch that is not too large."""
        elements = min(elements, self.reach)
        return self.per_item + elements * (self.per_element + elements * self.per_square)

    def batch_cost(self, batch_size: int, elements: int) -> float:
        """Return the expected seconds of a batch."""
        return self.fixed + batch_size * (self.item_cost(elements) + batch_size * self.crowding(elements))

    def cost(self, load: Load) -> float:
        """Return the expected seconds of a batch, padded or not."""
        load = load.within(self.reach)
        straight = self.fixed + self.per_item * load.batch_size + self.per_square * load.squares
        return straight + load.elements * (self.per_element + self.per_volume_square * load.elements)

    def crowding(self, elements: int) -> float:
        """Return the seconds that items add for each other: a batch of B pays B^2 of them."""
        return self.per_volume_square * min(elements, self.reach) ** 2

    def largest_batch(self, elements: int, seconds: float) -> int:
        """Return how many items fit into `seconds`, counted on the safe side; may be 0."""
        return self.most_of(self.item_cost(elements), self.crowding(elements), seconds)

    def most_of(self, item_cost: float, crowding: float, seconds: float) -> int:
        """Return how many items of these costs fit into `seconds`, counted on the safe side; may be 0."""
        room = seconds / self.upper - self.fixed
        if room <= 0:
            return 0
        if crowding > 0:
            return int((math.sqrt(item_cost * item_cost + 4 * crowding * room) - item_cost) / (2 * crowding))
        return int(room / item_cost) if item_cost > 0 else UNBOUNDED


@dataclass(frozen=True, slots=True)
class Worth:
    """What the device's time and an item's service are worth, in useful seconds."""

    price: float
    """Of a second of the device; below 1, at which only equal sizes would share."""
    fixed_share: float
    """Of an item, beside its own cost: what it would pay of a batch's fixed cost, were it to run later."""


@dataclass(frozen=True, slots=True)
class Formed:
    """A batch that could be launched now."""

    members: tuple[Waiting, ...]
    limited_by: ReleaseReason | None  # what kept it from growing; None = nothing but the queue and the gain
    padded_shape: Shape | None  # what every member is padded to; None: they lie end to end
    load: Load


@dataclass(slots=True)
class _Run:
    """A candidate: how many of which group."""

    top: Group
    takes: list[tuple[Group, int]]
    gain: float
    limited_by: ReleaseReason | None


def form_batch(
    room: WaitingRoom,
    anchor: Waiting,
    law: CostLaw,
    worth: Worth,
    now: float,
    max_batch: Callable[[int], int],
    padded: Callable[[Sequence[Waiting]], Shape],
) -> Formed:
    """Return the best batch that contains `anchor`, its members padded to what `padded` says.

    `max_batch` gives the largest batch size allowed for a number of padded elements per item (limits and memory). A
    member whose deadline is closer than the batch's upper time keeps the batch small, except that the anchor itself is
    always taken: by then running it late is the best that can be done for it.
    """
    groups = room.groups()
    home = room.group_of(anchor)
    best: _Run | None = None
    alone = law.batch_cost(1, home.elements)
    for index in range(groups.index(home), len(groups)):
        top = groups[index]
        if top is not home:
            if not _fits(home.padded_shape, top.padded_shape):
                continue
            if law.item_cost(top.elements) > alone:
                break  # and so for all that follow: the anchor would cost more there than in a batch of its own
        run = _grow(room, index, anchor, home, law, worth, now, max_batch(top.elements))
        if best is None or run.gain > best.gain:
            best = run
    assert best is not None, "the anchor's own group is always a candidate"
    members = _collect(room, anchor, best)
    padded_shape = padded(members)
    return Formed(members, best.limited_by, padded_shape, Load.padded(len(members), num_elements(padded_shape)))


def _grow(
    room: WaitingRoom,
    index: int,
    anchor: Waiting,
    home: Group,
    law: CostLaw,
    worth: Worth,
    now: float,
    max_batch: int,
) -> _Run:
    """Fill a batch padded to the group at `index`, from large items to small ones."""
    groups = room.groups()
    top = groups[index]
    per_item, per_element, per_square = law.per_item, law.per_element, law.per_square  # the loop below is hot
    cost, crowding = law.item_cost(top.elements), law.crowding(top.elements)
    price = worth.price
    least_worth = price * cost - worth.fixed_share  # who adds less useful work of its own than this stays out
    deadline = anchor.item.deadline
    in_time = law.most_of(cost, crowding, deadline - now)
    size = 1
    gain = law.item_cost(home.elements) + worth.fixed_share - price * (law.fixed + cost + crowding)
    takes: list[tuple[Group, int]] = []
    limited_by: ReleaseReason | None = None
    for position in range(index, -1, -1):
        group = groups[position]
        elements = min(group.elements, law.reach)
        surplus = per_item + elements * (per_element + elements * per_square) - least_worth
        if surplus < 0:
            break
        if group is not top and not _fits(group.padded_shape, top.padded_shape):
            continue
        available = group.count - (group is home)
        room_left = max_batch - size
        if crowding > 0:
            room_left = min(room_left, _worthwhile_size(surplus, price * crowding) - size)
        if available > room_left:
            available, limited_by = max(0, room_left), ReleaseReason.FULL
        earliest = group.deadlines.least()
        joint = in_time if earliest >= deadline else law.most_of(cost, crowding, earliest - now)
        if available > joint - size:
            available, limited_by = max(0, joint - size), ReleaseReason.DEADLINE
        if available > 0:
            takes.append((group, available))
            deadline, in_time = min(deadline, earliest), joint
            gain += available * (surplus - price * crowding * (2 * size + available))
            size += available
        if size >= max_batch:
            limited_by = ReleaseReason.FULL
            break
    return _Run(top, takes, gain, limited_by)


def _worthwhile_size(surplus: float, crowding: float) -> int:
    """The batch size up to which one more item is worth what it adds, its crowding of the others included."""
    return int((surplus / crowding + 1) / 2) if crowding > 0 else UNBOUNDED


def _collect(room: WaitingRoom, anchor: Waiting, run: _Run) -> tuple[Waiting, ...]:
    members = [anchor]
    for group, count in run.takes:
        chosen = [waiting for waiting in room.take(group, count + 1) if waiting is not anchor]
        members += chosen[:count]
    return tuple(members)


def _fits(shape: Shape, into: Shape) -> bool:
    """Shapes of another number of dimensions never share a batch."""
    return len(shape) == len(into) and all(map(le, shape, into))
