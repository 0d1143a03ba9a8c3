"""Laws of max-min fairness."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd.shares import fair_level

DEMANDS = st.lists(st.floats(0.0, 1e6), min_size=1, max_size=8)


@given(demands=DEMANDS, capacity=st.floats(1e-3, 1e3))
def test_all_is_given_out_and_nobody_gets_more_than_who_asks_for_more(demands: list[float], capacity: float) -> None:
    level = fair_level(demands, capacity)
    given_out = [min(demand, level) for demand in demands]
    assert 0 < level <= capacity
    assert sum(given_out) == pytest.approx(min(sum(demands), capacity))
    assert all(share in (demand, level) for share, demand in zip(given_out, demands, strict=True))


@given(demands=DEMANDS, more=st.floats(0.0, 1e6))
def test_who_asks_for_more_takes_nothing_from_who_asks_for_less_than_an_equal_part(
    demands: list[float], more: float
) -> None:
    level = fair_level([*demands, more])
    assert level >= 1.0 / (len(demands) + 1) - 1e-12
