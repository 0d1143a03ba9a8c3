"""Which of the waiting items run together where items lie end to end: the anchor, and the most urgent beside it.

Without padding no item makes another one dearer, so there is nothing to choose by size, and urgency decides. What still
bounds a batch: the limits and the memory, which are about the sum of the elements, every member's deadline, and the
point where the batch outgrows the caches so far that one more item costs more than it is worth (see
`batchd.formation` for the price).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from batchd.decision import ReleaseReason
from batchd.formation import CostLaw, Formed, Worth
from batchd.load import Load
from batchd.waiting_room import Waiting


@dataclass(frozen=True, slots=True)
class RaggedLimits:
    """What a batch may hold, whatever the deadlines."""

    items: int
    elements: int


def form_ragged(
    anchor: Waiting, others: Iterable[Waiting], law: CostLaw, worth: Worth, now: float, limits: RaggedLimits
) -> Formed:
    """Return the batch of `anchor`, which is always aboard, and those of `others` that find a place, in their order.

    One that does not fit, or would make a member late, is passed over for those behind it. Linear in `others`.
    """
    members = [anchor]
    load = Load.ragged([anchor.elements])
    deadline = anchor.item.deadline
    limited_by: ReleaseReason | None = None
    for waiting in others:
        if load.batch_size >= limits.items:
            limited_by = ReleaseReason.FULL
            break
        if waiting is anchor:
            continue
        grown = load.plus(waiting.elements)
        cost = law.cost(grown)
        own = worth.fixed_share + law.item_cost(waiting.elements)
        if grown.elements > limits.elements or own < worth.price * (cost - law.cost(load)):
            limited_by = ReleaseReason.FULL
            continue
        earliest = min(deadline, waiting.item.deadline)
        if now + law.upper * cost > earliest:
            limited_by = limited_by or ReleaseReason.DEADLINE
            continue
        members.append(waiting)
        load, deadline = grown, earliest
    if load.batch_size >= limits.items:
        limited_by = ReleaseReason.FULL
    return Formed(tuple(members), limited_by, None, load)
