"""Who is let in: by the forecast alone, and dearly only where time is scarce."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batchd import Admitted, Refused
from batchd.admission import AMPLE, SCARCE, Forecast, admit

LONG = Forecast(now=10.0, starts=10.15, own_upper_s=0.06, lent_s=0.0, fixed_s=0.01, demand=1.0, idle=False)
DEADLINE = 10.25


def test_a_long_item_behind_a_long_queue_is_refused_where_time_is_scarce() -> None:
    refused = admit(LONG, DEADLINE)
    assert isinstance(refused, Refused)
    assert "the queue is too long" in refused.detail
    assert refused.retry_after_s is not None
    assert refused.retry_after_s > 0


def test_a_short_one_is_not() -> None:
    assert isinstance(admit(replace(LONG, own_upper_s=0.012), DEADLINE), Admitted)


def test_nobody_is_refused_for_its_length_while_there_is_time_for_all() -> None:
    assert isinstance(admit(replace(LONG, demand=AMPLE), DEADLINE), Admitted)


@pytest.mark.parametrize("demand", [0.0, AMPLE, SCARCE, 2.0])
def test_what_cannot_be_in_time_is_refused_at_any_demand(demand: float) -> None:
    refused = admit(replace(LONG, starts=10.24, demand=demand), DEADLINE)
    assert isinstance(refused, Refused)
    assert "after the deadline" in refused.detail


def test_the_scarcer_the_time_the_longer_the_way() -> None:
    waits = []
    for demand in (AMPLE, (AMPLE + SCARCE) / 2, SCARCE, 2.0):
        refused = admit(replace(LONG, starts=10.24, demand=demand), DEADLINE)
        assert isinstance(refused, Refused)
        assert refused.retry_after_s is not None
        waits.append(refused.retry_after_s)
    assert waits == sorted(waits)
    assert waits[2] == waits[3] > waits[0]


def test_time_that_training_still_has_is_no_crowd() -> None:
    assert isinstance(admit(replace(LONG, lent_s=0.15), DEADLINE), Admitted)


def test_an_idle_device_takes_anything() -> None:
    assert isinstance(admit(replace(LONG, starts=10.0, own_upper_s=9.0, idle=True), DEADLINE), Admitted)
