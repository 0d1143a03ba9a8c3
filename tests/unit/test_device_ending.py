"""When the device process may end: laws over all orders of events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchd_server.device.ending import Ending
from batchd_server.supervisor.stopping import SAVE_GRACE_S, save_limit_s

DELAY_S, TIMEOUT_S = 3.0, 20.0
times = st.floats(0, 1000)


def ending() -> Ending:
    return Ending(DELAY_S, TIMEOUT_S)


@given(times, st.booleans(), st.booleans())
def test_nothing_ends_it_before_the_stop(now: float, serving: bool, saving: bool) -> None:
    it = ending()
    it.park(0.0)
    assert not it.over(now, serving=serving, saving=saving)


@given(times, st.floats(0, 100), st.booleans())
def test_with_nothing_left_to_do_it_ends_at_once(parked: float, later: float, told: bool) -> None:
    it = ending()
    if told:
        it.park(parked)
    it.stop(parked + later)
    assert it.over(parked + later, serving=False, saving=False)


@given(st.floats(0, DELAY_S + TIMEOUT_S))
def test_a_checkpoint_has_what_is_left_of_the_limit_and_a_grace_whenever_the_requests_are_done(
    requests_s: float,
) -> None:
    it = ending()
    it.park(0.0)
    it.stop(requests_s)
    limit_s = min(save_limit_s(DELAY_S, TIMEOUT_S), requests_s + TIMEOUT_S + SAVE_GRACE_S)
    assert limit_s >= TIMEOUT_S + SAVE_GRACE_S
    assert not it.over(limit_s - 0.001, serving=False, saving=True)
    assert it.over(limit_s + 0.001, serving=False, saving=True)


@given(times)
def test_requests_have_the_drain_timeout_of_the_stop_alone(stopped: float) -> None:
    it = ending()
    it.stop(stopped)
    assert not it.over(stopped + TIMEOUT_S - 0.001, serving=True, saving=False)
    assert it.over(stopped + TIMEOUT_S + 0.001, serving=True, saving=False)


@given(times, st.floats(0, 100))
def test_only_the_first_word_counts(now: float, later: float) -> None:
    it = ending()
    assert it.stop(now)
    assert not it.stop(now + later)
    assert it.park(now)
    assert not it.park(now + later)
    assert it.over(now + TIMEOUT_S + SAVE_GRACE_S + 0.001, serving=True, saving=True)
