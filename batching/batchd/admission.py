"""Whether a newcomer is let in: only if its answer can be there in time, and the time it takes is worth it.

Refusing early is kinder than answering late: the client can go elsewhere at once, and no device time is lost on it.
"""

from __future__ import annotations

from dataclasses import dataclass

from batchd.decision import Admission, Admitted, RefusalReason, Refused

CROWDING = 4.0
"""How much dearer an item's own time is when the backlog fills its whole slack.

Goodput counts answers, so when not all can be served in time the ones that take longest are refused first (the idea of
J. M. Moore, An n job, one machine sequencing algorithm for minimizing the number of late jobs, 1968, without evicting
what was admitted). Simulated at 1.5 times the capacity (log-normal lengths, 250 ms): 105 answers in time per second
without it, 130 with it.
"""

AMPLE, SCARCE = 0.6, 0.9
"""Seconds of work per second up to which nobody is refused for a long item, and from which its full price is asked.

Below it a queue passes by itself. Simulated at 0.4 of the capacity (log-normal lengths, 250 ms) 1.3 % were refused
without the ramp and 0.6 % with it, beside training 4.1 % and 1.6 %; at and over the capacity nothing changes.
"""

COMPANIONS = 0.3
"""How much longer the wait becomes, when the backlog fills the whole slack, by less urgent items that ride along ahead.

Simulated at three times the capacity (as above) 4.9 % of what was admitted expires with 0.15, 3.1 % with 0.3 and 1.7 %
with 0.5; items of one size at five times the capacity are served 5.8, 7.0 and 8.4 at a time, and 96.8, 98.1 and 99.1 of
them per second. At 100 per second 0.3 costs 0.1 % of the goodput, 0.5 costs 0.4 %.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What lies between a newcomer and its answer. Times in seconds."""

    now: float
    starts: float
    """Monotonic time at which all that is more urgent will be done."""
    own_upper_s: float
    """Upper time of a batch of the newcomer alone."""
    lent_s: float
    """Of the time until then, what training still has the device for. It is no sign of a crowd."""
    fixed_s: float
    """The part of it that every batch costs, whatever its size."""
    demand: float
    """Seconds of work that were admitted per second of late."""
    idle: bool
    """Nothing runs and nothing waits."""
    own_queue_s: float = 0.0
    """The part of the wait that is the newcomer's own model's."""
    share: float = 1.0
    """Of the device, for that model."""
    kept_free_s: float = 0.0
    """Of the slack, for models that ask for less than their share."""


def admit(forecast: Forecast, deadline: float, *, accepted: bool = False) -> Admission:
    """Admit or refuse an item with `deadline`. What was `accepted` before is not refused now.

    An idle device takes anything: there is nobody to make room for, and that a model has become faster is
    found out only by running it.
    """
    begins = forecast.now + forecast.lent_s
    slack = max(deadline - begins, 1e-9)
    wait = max(0.0, forecast.starts - begins, forecast.own_queue_s / forecast.share + forecast.kept_free_s)
    wait *= 1 + COMPANIONS * min(1.0, wait / slack)
    finish = begins + wait + forecast.own_upper_s
    if forecast.idle or accepted:
        return Admitted(finish)
    scarcity = min(1.0, max(0.0, (forecast.demand - AMPLE) / (SCARCE - AMPLE)))
    load = scarcity * min(1.0, wait / slack)
    surcharge = CROWDING * load * max(0.0, forecast.own_upper_s - forecast.fixed_s)
    excess = finish + surcharge - deadline
    if excess <= 0:
        return Admitted(finish)
    if finish > deadline:
        detail = f"the answer is expected {(finish - deadline) * 1e3:.0f} ms after the deadline"
    else:
        detail = f"the queue is too long for an item that takes {forecast.own_upper_s * 1e3:.0f} ms"
    return Refused(RefusalReason.DEADLINE_INFEASIBLE, detail, excess)
