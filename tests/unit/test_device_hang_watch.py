"""What hangs is noticed, what is merely long is left alone, and a frozen machine blames nobody."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchd_server.device.hang_watch import FACTOR, UNKNOWN_FACTOR, HangWatch, RunAccount, Running

FLOOR_S = 10.0
LOOK_S = 0.5


def first_verdict(upper_s: float | None, give_up_s: float) -> float | None:
    """Return when work that never ends is noticed."""
    watch = HangWatch(FLOOR_S)
    now = 0.0
    while now < give_up_s:
        if watch.look(Running(1, "a batch", upper_s), now) is not None:
            return now
        now += LOOK_S
    return None


@given(st.one_of(st.none(), st.floats(0.0, 10.0)))
def test_work_may_take_twenty_times_what_was_predicted_and_no_less_than_the_floor(upper_s: float | None) -> None:
    allowed = UNKNOWN_FACTOR * FLOOR_S if upper_s is None else max(FACTOR * upper_s, FLOOR_S)
    noticed = first_verdict(upper_s, allowed + 5.0)
    assert noticed is not None
    assert allowed < noticed <= allowed + 2 * LOOK_S


def test_every_new_run_has_its_own_time() -> None:
    account, watch = RunAccount(), HangWatch(FLOOR_S)
    account.begin("a batch whose items are run one by one", 0.01)
    now = 0.0
    for _ in range(100):
        account.again()
        for _ in range(int(FLOOR_S / LOOK_S)):
            assert watch.look(account.current, now) is None
            now += LOOK_S
    account.end()
    account.again()
    assert account.current is None
    assert watch.look(account.current, now + 100.0) is None


def test_time_in_which_nobody_looked_does_not_count() -> None:
    watch = HangWatch(FLOOR_S)
    assert watch.look(Running(1, "a batch", 0.01), 0.0) is None
    assert watch.look(Running(1, "a batch", 0.01), 3600.0) is None, "the container was frozen, batch and all"


def test_the_verdict_says_what_hangs() -> None:
    watch = HangWatch(1.0)
    verdicts = [watch.look(Running(1, "a batch of 3 of model m", 0.02), turn * LOOK_S) for turn in range(4)]
    assert verdicts[:3] == [None] * 3
    assert verdicts[3] == "a batch of 3 of model m, predicted to end within 0.02 s, has run for 1.5 s"
