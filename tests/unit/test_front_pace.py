"""How long a transfer may take."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from batchd_server.front.pace import Pace, Stall

TIMES = st.floats(0, 1e6)


@given(started=TIMES, grace=st.floats(0.01, 1e3), rate=st.integers(1, 10**6), parts=st.lists(st.integers(0, 10**7)))
def test_a_sender_that_keeps_the_rate_is_never_late(started: float, grace: float, rate: int, parts: list[int]) -> None:
    pace = Pace(started, grace, rate)
    now = started
    for part in parts:
        now += part / rate
        pace.received += part
        assert now < pace.deadline


@given(started=TIMES, grace=st.floats(0.01, 1e3), rate=st.integers(1, 10**6), seconds=st.floats(1.1, 100))
def test_a_sender_below_the_rate_is_late_at_some_time(started: float, grace: float, rate: int, seconds: float) -> None:
    pace = Pace(started, grace, rate, received=int(0.5 * rate * 2 * grace * seconds))
    assert started + 2 * grace * seconds > pace.deadline - 1e-6 * (1 + pace.deadline)


@given(started=TIMES, grace=st.floats(0.01, 1e3), received=st.integers(0, 10**12))
def test_at_an_infinite_rate_no_byte_buys_time(started: float, grace: float, received: int) -> None:
    assert Pace(started, grace, math.inf, received).deadline == started + grace


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0.001, 10)), min_size=1, max_size=50))
def test_a_stall_lasts_since_the_last_movement(looks: list[tuple[int, float]]) -> None:
    stall, now, moved, before = Stall(), 0.0, 0.0, 0
    for waiting, later in looks:
        now += later
        if waiting != before or waiting == 0:
            moved, before = now, waiting
        assert stall.seconds(waiting, now) == now - moved


def test_nothing_that_waits_is_no_stall() -> None:
    stall = Stall()
    assert [stall.seconds(0, now) for now in (1.0, 50.0, 1000.0)] == [0.0, 0.0, 0.0]
