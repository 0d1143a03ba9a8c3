"""For how long the device can be spared: until a promise to an item, waiting or just about to come, would break.

The plan behind it: every model's most urgent items run first, each in the batch that it would get now; all others
follow by deadline. Batch costs are upper times, and a part of each SLO stays untouched (`TrainingPolicy.safety`). What
is promised is an answer within the SLO, however long the client would wait.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from batchd.formation import Formed
from batchd.leasing.demand import TrainingPolicy
from batchd.served_model import ServedModel
from batchd.waiting_room import Waiting

LEAST_MARGIN_S = 0.002
"""Kept free before every deadline, however short the SLO: what a report, a decision and a launch take."""

FEWEST_SAMPLES = 16
"""Timed batches of a model before any of its waiting items' slack is lent."""


@dataclass(frozen=True, slots=True)
class Slack:
    """For how long the device may be lent."""

    seconds: float = math.inf
    """Not positive: not at all; infinite: nothing is promised to anybody."""
    bound_by: str | None = None
    """The model that allows no more."""

    def within(self, seconds: float, model: ServedModel) -> Slack:
        """Return what is left where `model` allows `seconds`."""
        return Slack(seconds, model.name) if seconds < self.seconds else self


def lease_slack(
    models: Sequence[ServedModel],
    form: Callable[[ServedModel, Waiting], Formed],
    policy: TrainingPolicy,
    scale: float,
    now: float,
    *,
    draining: bool = False,
) -> Slack:
    """Return for how long the device may be lent from `now`.

    `form` gives the batch of an item as it would be if deadlines did not press. `scale` in (0, 1] shrinks what is lent
    of the waiting items' slack, as does a priority below 1; at priority 0 any waiting item forbids a lease. Nobody
    comes while `draining`.
    """
    lent = policy.priority * scale
    rate = sum(model.law.upper * model.padding_factor * model.arrivals.per_second(now) for model in models)
    slack = Slack()
    busy = 0.0
    late: list[tuple[float, float, ServedModel]] = []  # (when it must be done, seconds) of what is in no first batch
    anchors = [(anchor, model) for model in models if (anchor := model.room.most_urgent()) is not None]
    for anchor, model in sorted(anchors, key=lambda pair: pair[0].urgency):
        formed = form(model, anchor)
        cost = model.law.cost(formed.load)
        busy += model.law.upper * cost
        # what a batch costs must be known before its deadline is relied upon
        share = lent if model.latency.num_samples >= FEWEST_SAMPLES else 0.0
        if share == 0:
            slack = slack.within(0.0, model)
        # the oldest item bounds the wait, whether it is aboard or not
        due = min(_longest_wait(model), *(_due(waiting, model, policy, share) for waiting in formed.members))
        slack = slack.within((due - now - busy) / (1 + rate), model)
        late += ((edge, seconds, model) for edge, seconds in _others(model, formed, policy, share))
    for due, seconds, model in sorted(late, key=lambda entry: entry[0]):
        busy += seconds
        slack = slack.within(due - now - busy, model)
    for model in () if draining else models:
        slack = slack.within(_for_newcomer(model, policy, busy, rate), model)
    return slack


def empty_slack(models: Sequence[ServedModel], policy: TrainingPolicy) -> float:
    """Return the seconds that the device could be lent if nothing waited or came."""
    return min((_for_newcomer(model, policy, 0.0, 0.0) for model in models), default=math.inf)


def _for_newcomer(model: ServedModel, policy: TrainingPolicy, busy: float, rate: float) -> float:
    """The lease that an item tolerates that comes right after it is granted, or right after the batch that follows.

    With `busy` seconds waiting and `rate` seconds of work coming per second, what waits after a lease of tau is
    W = busy + rate * tau. The first newcomer, a large one, waits for tau + W and a batch of its own; one that just
    misses that batch waits for W and a batch that has grown for W: the two inequalities below, solved for tau.
    """
    own = model.law.upper * (model.law.fixed + model.large_cost)
    promised = policy.safety * model.policy.slo_s - own
    lease = (promised - busy) / (1 + rate)
    if rate > 0:
        lease = min(lease, (promised / (1 + rate) - busy) / rate)
    return lease


def _margin(model: ServedModel, policy: TrainingPolicy) -> float:
    """Seconds before a deadline at which an item must be done."""
    return max(LEAST_MARGIN_S, (1 - policy.safety) * model.policy.slo_s)


def _due(waiting: Waiting, model: ServedModel, policy: TrainingPolicy, lent: float) -> float:
    """When an item must be done, if `lent` is the share of its time that leases may use up."""
    return waiting.promised - _margin(model, policy) - (1 - lent) * model.policy.slo_s


def _longest_wait(model: ServedModel) -> float:
    """When the model's oldest item has waited as long as it ever may."""
    oldest = model.room.oldest()
    if oldest is None or model.policy.max_wait_s is None:
        return math.inf
    return oldest.item.arrived + model.policy.max_wait_s


def _others(model: ServedModel, formed: Formed, policy: TrainingPolicy, lent: float) -> list[tuple[float, float]]:
    """What waits beside the first batch, in bins of promises: when it must be done, and its upper seconds."""
    aboard = {waiting.item.id for waiting in formed.members}
    if len(aboard) == len(model.room):
        return []
    left = model.room.due.bins_without([(waiting.promised, waiting.own_cost) for waiting in formed.members])
    reserve = _margin(model, policy) + (1 - lent) * model.policy.slo_s  # their arrivals are not known
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
