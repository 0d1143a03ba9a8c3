"""The search for the highest rate, against servers that are functions."""

from __future__ import annotations

import math

import pytest

from batchd_client.loadtest.max_rate import Hopeless, TrialPlan, verdict
from batchd_client.loadtest.rate_search import RateSearch, Trial
from batchd_client.loadtest.report import report_of
from batchd_client.loadtest.runner import Recording
from batchd_client.loadtest.sample import NO_TIMING, Sample


def found(search: RateSearch, limit: float) -> tuple[float | None, list[Trial]]:
    trials: list[Trial] = []
    while (rate := search.next_rate(trials)) is not None:
        trials.append(Trial(rate, rate <= limit))
        assert len(trials) < 60
    return search.bracket(trials)[0], trials


@pytest.mark.parametrize("limit", [0.7, 3.0, 16.0, 119.3, 5000.0])
@pytest.mark.parametrize("start", [1.0, 16.0, 900.0])
def test_the_result_holds_and_is_within_the_tolerance_of_the_limit(limit: float, start: float) -> None:
    best, trials = found(RateSearch(start=start), limit)
    assert best is not None
    assert limit / 1.05 <= best <= limit
    assert len(trials) <= 2 + abs(math.log2(limit / start)) + 5


def test_a_server_without_a_limit_ends_at_the_ceiling() -> None:
    best, trials = found(RateSearch(start=10.0, ceiling=1000.0), math.inf)
    assert best == 1000.0
    assert trials[-1].rate == 1000.0


def test_a_server_that_holds_nothing_ends_at_the_floor_with_no_result() -> None:
    best, trials = found(RateSearch(start=10.0, floor=1.0), 0.0)
    assert best is None
    assert trials[-1].rate == 1.0


def test_a_failure_below_a_success_is_believed() -> None:
    search = RateSearch(start=10.0)
    history = [Trial(10.0, True), Trial(20.0, False), Trial(14.0, True), Trial(12.0, False)]
    assert search.bracket(history) == (10.0, 12.0)
    following = search.next_rate(history)
    assert following is not None
    assert 10.0 < following < 12.0


@pytest.mark.parametrize("wrong", [{"start": 0.0}, {"start": 1.0, "growth": 1.0}, {"start": 9.0, "ceiling": 5.0}])
def test_a_search_without_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="rate search"):
        RateSearch(**wrong)


def test_a_trial_is_long_enough_for_its_p99_and_for_a_stall_to_show() -> None:
    plan = TrialPlan(slo_s=0.1)
    assert plan.count(10.0) == 1000
    assert plan.count(1000.0) == 5000
    assert plan.load(10.0, 0).seed != plan.load(10.0, 1).seed


def sample(response_s: float, *, ok: bool = True) -> Sample:
    return Sample(
        scheduled=0.0,
        sent=0.0,
        done=response_s,
        outcome="200" if ok else "503",
        ok=ok,
        answered=True,
        size=1,
        items=1,
        deadline_s=None,
        waited_for_connection=False,
        timing=NO_TIMING,
        message="",
    )


def judged(late: int, failed: int, count: int = 1000) -> tuple[bool, bool]:
    """Return whether the trial passed, and whether it would have been broken off on the way."""
    samples = [sample(0.2)] * late + [sample(0.0, ok=False)] * failed + [sample(0.01)] * (count - late - failed)
    recording = Recording(measured_from=0.0, span_s=1.0, samples=samples, offered=count, wall_s=1.0)
    hopeless = Hopeless(count, 0.1)
    broken_off = any(hopeless(one) for one in samples)
    return verdict(report_of(recording, mode="open", slo_s=0.1), 0.1)[0], broken_off


@pytest.mark.parametrize(
    ("late", "failed", "passes"), [(0, 0, True), (9, 0, True), (12, 0, False), (0, 10, True), (0, 12, False)]
)
def test_a_rate_holds_with_p99_within_the_slo_and_at_most_one_percent_failed(
    late: int, failed: int, passes: bool
) -> None:
    passed, broken_off = judged(late, failed)
    assert passed is passes
    assert broken_off is not passes


def test_no_trial_that_would_pass_is_broken_off() -> None:
    for count in (459, 1000, 5000):
        for late in range(0, count // 50, 3):
            passed, broken_off = judged(late, 0, count)
            assert not (passed and broken_off)
