"""What is kept free of a deadline for the way back: enough for what has been seen, and never most of it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd_server.front.way_back import LARGEST_SHARE, WayBack

seconds = st.floats(-0.01, 10.0)


@given(st.lists(seconds, max_size=60), st.floats(-1.0, 100.0))
def test_it_is_a_small_share_of_the_deadline(seen: list[float], limit_s: float) -> None:
    way = WayBack()
    for each in seen:
        way.observe(each)
    assert 0 <= way.reserve_s(limit_s) <= LARGEST_SHARE * max(0.0, limit_s)


def test_nothing_is_kept_free_before_anything_was_seen() -> None:
    assert WayBack().reserve_s(1.0) == 0.0


@given(st.lists(seconds, max_size=20), st.floats(0.0001, 0.1))
def test_it_settles_at_what_is_always_needed(before: list[float], needed: float) -> None:
    way = WayBack()
    for each in before:
        way.observe(each)
    for _ in range(400):
        way.observe(needed)
    assert way.reserve_s(1e6) == pytest.approx(needed, rel=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_it_covers_most_of_what_varies(seed: int) -> None:
    rng, way, covered, num = random.Random(seed), WayBack(), 0, 500
    for _ in range(num):
        drawn = rng.expovariate(1 / 0.004)
        covered += drawn <= way.reserve_s(1e6)
        way.observe(drawn)
    assert covered >= 0.85 * num
