"""When an idle device waits for more items instead of running what is there."""

from __future__ import annotations

from batchd.decision import ReleaseReason
from batchd.formation import Formed
from batchd.policy import ModelPolicy, Window


def release_at(
    policy: ModelPolicy, formed: Formed, oldest_arrival: float, latest_start: float, now: float
) -> tuple[float, ReleaseReason]:
    """Return when to launch `formed` and why: a time not after `now` means at once.

    The adaptive window never holds a batch while the device is free: measured, waiting then costs median latency and
    gains nothing at the tail, because under load the queue fills while the device is busy. The fixed window is the
    classic one: it opens with the oldest item and closes after `max_wait_s`, when the batch is full, or when waiting on
    would miss the most urgent deadline.
    """
    if formed.limited_by is not None:
        return now, formed.limited_by
    match policy.window:
        case Window.ADAPTIVE:
            return now, ReleaseReason.IDLE
        case Window.FIXED:
            closes = oldest_arrival + policy.max_wait_s
            if latest_start < closes:
                return latest_start, ReleaseReason.DEADLINE
            return closes, ReleaseReason.WINDOW
