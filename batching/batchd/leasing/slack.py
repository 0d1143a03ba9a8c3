"""For how long the device can be spared: until a promise to an item, waiting or just about to come, would break.

The plan behind it: every model's most urgent items run first, each in the batch that it would get now; all others
follow by deadline. Batch costs are upper times, and a part of each SLO stays untouched (`TrainingPolicy.safety`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from batchd.formation import Formed
from batchd.leasing.demand import TrainingPolicy
from batchd.served_model import ServedModel
from batchd.waiting_room import Waiting

LEAST_MARGIN_S = 0.002
"""Kept free before every deadline, however short the SLO: what a report, a decision and a launch take."""

FEWEST_SAMPLES = 16
"""Timed batches of a model before any of its waiting items' slack is lent."""


def lease_slack(
    models: Sequence[ServedModel],
    form: Callable[[ServedModel, Waiting], Formed],
    policy: TrainingPolicy,
    scale: float,
    now: float,
) -> float:
    """Return the seconds that the device may be lent from `now`; not positive: not at all, infinite: nothing is served.

    `form` gives the batch of an item as it would be if deadlines did not press. `scale` in (0, 1] shrinks what is lent
    of the waiting items' slack, as does a priority below 1; at priority 0 any waiting item forbids a lease.
    """
    lent = policy.priority * scale
    rate = sum(model.law.upper * model.padding_factor * model.arrivals.per_second(now) for model in models)
    slack = math.inf
    busy = 0.0
    late: list[tuple[float, float]] = []  # (when it must be done, seconds) of what is not in a first batch
    anchors = [(anchor, model) for model in models if (anchor := model.room.most_urgent()) is not None]
    for anchor, model in sorted(anchors, key=lambda pair: pair[0].urgency):
        formed = form(model, anchor)
        cost = model.law.cost(formed.load)
        busy += model.law.upper * cost
        # what a batch costs must be known before its deadline is relied upon
        reserve = _reserve(model, policy, lent if model.latency.num_samples >= FEWEST_SAMPLES else 0.0)
        # the oldest item bounds the wait, whether it is aboard or not
        due = min(min(waiting.item.deadline for waiting in formed.members) - reserve, _longest_wait(model))
        slack = min(slack, (due - now - busy) / (1 + rate))
        late += _others(model, formed, reserve)
    for due, seconds in sorted(late):
        busy += seconds
        slack = min(slack, due - now - busy)
    for model in models:
        slack = min(slack, _for_newcomer(model, policy, busy, rate))
    return slack


def empty_slack(models: Sequence[ServedModel], policy: TrainingPolicy) -> float:
    """Return the seconds that the device could be lent if nothing waited or came."""
    return min((_for_newcomer(model, policy, 0.0, 0.0) for model in models), default=math.inf)


def _for_newcomer(model: ServedModel, policy: TrainingPolicy, busy: float, rate: float) -> float:
    """The lease that an item tolerates that comes right after it is granted, or right after the batch that follows.

    With `busy` seconds waiting and `rate` seconds of work coming per second, what waits after a lease of tau is
    W = busy + rate * tau. The first newcomer waits for tau + W and a batch of its own; one that just misses that batch
    waits for W and a batch that has grown for W: the two inequalities below, solved for tau.
    """
    promised = policy.safety * model.policy.slo_s - model.law.upper * model.law.fixed
    lease = (promised - busy) / (1 + rate)
    if rate > 0:
        lease = min(lease, (promised / (1 + rate) - busy) / rate)
    return lease


def _reserve(model: ServedModel, policy: TrainingPolicy, lent: float) -> float:
    """Seconds before a deadline at which an item must be done: the safety's share, and the slack that is not lent."""
    return max(LEAST_MARGIN_S, (1 - policy.safety) * model.policy.slo_s) + (1 - lent) * model.policy.slo_s


def _longest_wait(model: ServedModel) -> float:
    """When the model's oldest item has waited as long as it ever may."""
    oldest = model.room.oldest()
    if oldest is None or model.policy.max_wait_s is None:
        return math.inf
    return oldest.item.arrived + model.policy.max_wait_s


def _others(model: ServedModel, formed: Formed, reserve: float) -> list[tuple[float, float]]:
    """What waits beside the first batch, in bins of deadlines: when it must be done, and its upper seconds."""
    aboard = {waiting.item.id for waiting in formed.members}
    if len(aboard) == len(model.room):
        return []
    left = model.room.due.bins_without([(waiting.item.deadline, waiting.own_cost) for waiting in formed.members])
    dues: list[tuple[float, float]] = []
    seconds = num_items = 0.0
    before = 0.0
    for edge, bin_seconds, bin_items in left:
        seconds += bin_seconds
        num_items += bin_items
        after = model.law.upper * model.drain_seconds(seconds, int(num_items))
        dues.append((edge - reserve, after - before))
        before = after
    return dues
