"""The governor's rules, one by one; its laws are in tests/property/test_schedule_laws.py."""

from __future__ import annotations

import math
from typing import Any

import pytest

from batchd.governor import Governor, GovernorSettings
from batchd.schedules import Bounds, Proposal, make_schedule
from batchd.schedules.step_stats import StepStats


def governor(size: int | None = None, bounds: tuple[int, int] = (8, 512), **settings: Any) -> Governor:
    steady = {"smoothing": 1.0, "max_ratio": None, "dead_band": 0.0, "cooldown_steps": 0}
    return Governor(GovernorSettings(bounds=Bounds(*bounds), **{**steady, **settings}), size)


def follow(keeper: Governor, *targets: float, first_step: int = 0) -> list[int]:
    return [
        keeper.commit(Proposal(target, "test"), step=first_step + place, schedule="test").size
        for place, target in enumerate(targets)
    ]


def test_sizes_are_rounded_half_up_and_kept_within_bounds() -> None:
    assert follow(governor(), 10.5, 11.5, 11.4, 1e9, -5.0) == [11, 12, 11, 512, 8]


def test_sizes_lie_on_the_grid() -> None:
    assert follow(governor(multiple=24), 35.9, 36.0, 1e9, 0.0) == [24, 48, 504, 24]
    powers = governor(grid="powers", bounds=(8, 100))
    assert list(powers.settings.sizes) == [8, 11, 16, 23, 32, 45, 64, 91, 100]
    assert follow(powers, 12.0, 95.0, 96.0) == [11, 91, 100]


def test_smoothing_is_geometric() -> None:
    assert follow(governor(16, smoothing=0.5), 64.0, 64.0) == [32, 45]


def test_a_commit_changes_by_no_more_than_the_ratio() -> None:
    assert follow(governor(16, max_ratio=2.0), 500.0, 500.0, 8.0, 8.0) == [32, 64, 32, 16]


def test_a_slow_size_is_not_outrun_by_its_average() -> None:
    """After a hundred proposals far above, one below turns the size round at once."""
    keeper = governor(16, smoothing=0.3, max_ratio=1.5, cooldown_steps=1000)
    follow(keeper, *[512.0] * 100)
    assert keeper.state_dict()["log_average"] <= math.log(keeper.size * 1.5) + 1e-9


def test_small_changes_are_not_worth_one() -> None:
    assert follow(governor(100, dead_band=0.2), 119.0, 84.0, 121.0) == [100, 100, 121]


def test_between_changes_the_size_rests() -> None:
    keeper = governor(16, cooldown_steps=3)
    assert follow(keeper, 32.0, 64.0, 64.0, 64.0) == [32, 32, 32, 64]


def test_monotone_never_moves_down() -> None:
    assert follow(governor(64, monotone=True), 16.0, 128.0, 8.0) == [64, 128, 128]


@pytest.mark.parametrize("target", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_keeps_the_size(target: float) -> None:
    keeper = governor(32)
    before = keeper.state_dict()
    commit = keeper.commit(Proposal(target, "test"), step=1, schedule="s")
    assert (commit.size, commit.changed, commit.raw) == (32, False, None)
    assert keeper.state_dict() == before


def test_a_commit_tells_what_happened() -> None:
    commit = governor(16).commit(Proposal(40.2, "because"), step=7, schedule="linear")
    assert (commit.step, commit.schedule, commit.raw, commit.size) == (7, "linear", 40.2, 40)
    assert commit.smoothed == pytest.approx(40.2)
    assert (commit.reason, commit.changed) == ("because", True)


def test_defaults_suit_the_schedule() -> None:
    bounds = Bounds(16, 64)
    plan = make_schedule("linear", {}, bounds)
    keeper = Governor.of(plan, bounds)
    sizes = [
        keeper.commit(
            plan.propose(StepStats(step=i, examples=i, epoch=float(i), train_size=1, batch_size=keeper.size)),
            step=i,
            schedule=plan.name,
        ).size
        for i in range(8)
    ]
    assert sizes == [16, 24, 32, 40, 48, 56, 64, 64]
    assert Governor.of(make_schedule("loss_difference", {}, bounds), bounds).settings.smoothing == 1.0
    assert Governor.of(make_schedule("noise_scale", {}, bounds), bounds).settings.smoothing == 0.3
    assert Governor.of(plan, bounds, smoothing=0.5, size=20).settings.smoothing == 0.5


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"smoothing": 0.0}, "smoothing"),
        ({"max_ratio": 1.0}, "max_ratio"),
        ({"dead_band": -0.1}, "dead_band"),
        ({"cooldown_steps": -1}, "cooldown_steps"),
        ({"multiple": 0}, "multiple"),
        ({"multiple": 600}, "multiple"),
        ({"grid": "primes"}, "grid"),
        ({"multiple": 8, "max_ratio": 1.5}, "max_ratio must be at least 2, the widest step"),
        ({"dead_band": 1.5, "max_ratio": 2.0}, "dead_band"),
    ],
)
def test_settings_that_could_not_work_are_refused_by_name(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        governor(**settings)


def test_a_foreign_state_is_refused_and_an_old_size_finds_the_grid() -> None:
    keeper = governor(multiple=10)
    with pytest.raises(ValueError, match="state of a governor"):
        keeper.load_state_dict({})
    keeper.load_state_dict({"size": 64, "log_average": math.log(64), "changed_at": 3})
    assert keeper.size == 60
