"""What a newcomer has before it: the batch that runs, a lease, and all that is more urgent."""

from __future__ import annotations

from collections.abc import Collection

from batchd.admission import Forecast
from batchd.served_model import ServedModel
from batchd.shares import Crowd
from batchd.waiting_room import Waiting


def forecast(
    waiting: Waiting,
    model: ServedModel,
    models: Collection[ServedModel],
    now: float,
    *,
    lent_until: float,
    running_until: float,
    idle: bool,
) -> Forecast:
    """Return how the newcomer `waiting` stands, an item of `model`, which is one of `models`. Times are monotonic.

    `lent_until` and `running_until` say when training and the batch that runs are expected to free the device.
    """
    starts = max(running_until, lent_until)
    own_queue_s = 0.0
    for other in models:
        own_costs, num_items = other.room.backlog.ahead_of(waiting.urgency)
        queue_s = other.drain_seconds(own_costs, num_items)
        if other is model:
            own_queue_s = queue_s
            if model.joins_last_batch(num_items):
                queue_s -= model.law.fixed  # it is in the newcomer's own time
        starts += queue_s
    crowd = Crowd.of(model, models, now)
    return Forecast(
        now=now,
        starts=starts,
        own_upper_s=model.law.upper * (model.law.fixed + waiting.own_cost),
        lent_s=lent_until - now,
        demand=crowd.demand,
        fixed_s=model.law.upper * model.law.fixed,
        idle=idle,
        own_queue_s=own_queue_s if crowd.share < 1.0 else 0.0,
        share=crowd.share,
        kept_free_s=crowd.kept_free_s,
    )
