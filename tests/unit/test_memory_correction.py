from hypothesis import given
from hypothesis import strategies as st

from batchd.memory_correction import ENOUGH, RECENT, MemoryCorrection


def test_the_guess_holds_until_there_are_enough_ratios_and_never_shrinks_before() -> None:
    correction = MemoryCorrection(1.15)
    for _ in range(ENOUGH - 1):
        assert not correction.observe(100, 50)
        assert correction.factor == 1.15
    assert correction.observe(100, 50)
    assert correction.factor == 1.0


@given(ratios=st.lists(st.integers(1, 300), min_size=ENOUGH, max_size=2 * RECENT))
def test_then_it_is_what_the_worst_recent_prediction_needed(ratios: list[int]) -> None:
    correction = MemoryCorrection(1.15)
    for ratio in ratios:
        correction.observe(100, ratio)
    assert correction.factor == max(1.0, max(ratios[-RECENT:]) / 100)


def test_a_prediction_of_nothing_teaches_nothing() -> None:
    correction = MemoryCorrection(1.15)
    assert not correction.observe(0, 10)
    assert correction.factor == 1.15
