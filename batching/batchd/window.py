"""When an idle device waits for more items instead of running what is there."""

from __future__ import annotations

from batchd.decision import ReleaseReason
from batchd.formation import Formed
from batchd.policy import ModelPolicy, Window


def release_at(policy: ModelPolicy, formed: Formed, upper_s: float, now: float) -> tuple[float, ReleaseReason]:
    """Return when to launch `formed`, which takes up to `upper_s`, and why: a time not after `now` means at once.

    The adaptive window never holds a batch while the device is free: measured, waiting then costs median latency and
    gains nothing at the tail, because under load the queue fills while the device is busy; waiting pays when the time
    goes to training, and then the leases are the window (`batchd.leasing`). The fixed window is the classic one: it
    opens with the oldest item and closes after `max_wait_s`, when the batch is full, or when waiting on would miss the
    most urgent deadline.
    """
    if formed.limited_by is not None:
        return now, formed.limited_by
    match policy.window:
        case Window.ADAPTIVE:
            return now, ReleaseReason.IDLE
        case Window.FIXED:
            closes = min(waiting.item.arrived for waiting in formed.members) + policy.fixed_window_s
            latest_start = min(waiting.item.deadline for waiting in formed.members) - upper_s
            if latest_start < closes:
                return latest_start, ReleaseReason.DEADLINE
            return closes, ReleaseReason.WINDOW
