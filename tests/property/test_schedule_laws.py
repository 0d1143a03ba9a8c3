"""Whatever training reports, schedules and governor keep their promises."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchd.governor import Governor, GovernorSettings
from batchd.lr_rules import LR_RULES, make_lr_rule
from batchd.schedules import SCHEDULES, BoundedSchedule, Bounds, CandidateLoss, Proposal, StepStats, Task, make_schedule

TASK = Task(kind="classification", num_classes=5)
ANY = st.floats()  # nan, infinities, zeros and denormals included
NATURAL = st.floats(0, 10)
SOME = st.one_of(st.none(), ANY, NATURAL)
BOUNDS = st.tuples(st.integers(1, 600), st.integers(0, 5000)).map(lambda pair: Bounds(pair[0], pair[0] + pair[1]))
CANDIDATES = st.lists(
    st.builds(CandidateLoss, size=st.integers(0, 6000), loss=st.one_of(ANY, NATURAL), seconds=SOME), max_size=4
).map(tuple)
STATS = st.builds(
    StepStats,
    step=st.integers(0, 10**9),
    examples=st.integers(0, 10**15),
    epoch=st.one_of(ANY, NATURAL),
    train_size=st.integers(0, 10**9),
    batch_size=st.integers(0, 10**6),
    learning_rate=st.one_of(ANY, NATURAL),
    loss=st.one_of(ANY, NATURAL),
    entropy=SOME,
    S=SOME,
    g2=SOME,
    seed_noise=SOME,
    num_microbatches=st.integers(0, 16),
    alpha=SOME,
    beta=SOME,
    candidates=CANDIDATES,
    memory_used=SOME,
)
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "linear": [{}, {"increment": -1e300}, {"every_examples": 1}],
    "exponential": [{}, {"factor": 1e-300}, {"factor": 1e300, "start": 1e-300}],
    "cyclical": [{}, {"shape": "triangle"}, {"shape": "cosine", "cycle": 3, "num_cycles": 2}],
    "loss_difference": [{}, {"move": "proportional", "patience": 1, "gain": 1e300}, {"move": "add", "patience": 1}],
    "loss_moving_average": [{}, {"patience": 1, "falling": "down", "floor": 1e-300}],
    "loss_variance": [{"window": 3, "patience": 1}, {"window": 3, "detrend": False, "move": "proportional"}],
    "entropy": [{}, {"mode": "incremental", "patience": 1}],
    "noise_scale": [{}, {"statistic": "classic"}, {"scale": 1e300}],
    "online_selection": [{}, {"choose": "max"}, {"score": "lookahead"}],
    "memory": [{"accept_not_portable": True}],
}
CASES = [(name, parameters) for name in SCHEDULES for parameters in VARIANTS.get(name, [{}])]


def make(name: str, parameters: dict[str, Any], bounds: Bounds) -> BoundedSchedule:
    return make_schedule(name, parameters, bounds, TASK)


@pytest.mark.parametrize(("name", "parameters"), CASES)
@settings(max_examples=25)
@given(bounds=BOUNDS, history=st.lists(STATS, min_size=1, max_size=6), cut=st.integers(0, 6))
def test_a_schedule_is_bounded_deterministic_and_resumable(
    name: str, parameters: dict[str, Any], bounds: Bounds, history: list[StepStats], cut: int
) -> None:
    schedule, resumed = make(name, parameters, bounds), make(name, parameters, bounds)
    for place, stats in enumerate(history):
        if place == cut:
            resumed = make(name, parameters, bounds)
            resumed.load_state_dict(json.loads(json.dumps(schedule.state_dict(), allow_nan=False)))
        proposal = schedule.propose(stats)
        assert bounds.min_size <= proposal.target <= bounds.max_size
        assert 0 < proposal.data_fraction <= 1
        assert proposal.reason
        assert resumed.propose(stats) == proposal
        target = schedule.state_dict().get("target")
        assert target is None or bounds.min_size <= target <= bounds.max_size  # no wind-up
    assert resumed.state_dict() == schedule.state_dict()


@st.composite
def governors(draw: st.DrawFn, *, least_smoothing: float = 0.01, least_ratio: float = 1.001) -> GovernorSettings:
    bounds = draw(BOUNDS)
    grid = draw(st.sampled_from(["multiples", "powers"]))
    multiple = draw(st.integers(1, min(64, bounds.max_size)))
    loose = GovernorSettings(
        bounds=bounds if grid == "powers" else Bounds(bounds.min_size, bounds.max_size + multiple),
        grid=grid,
        multiple=multiple,
        max_ratio=None,
    )
    sizes = list(loose.sizes)
    widest = max((b / a for a, b in pairwise(sizes)), default=1.0)
    lowest = max(widest, least_ratio)
    return GovernorSettings(
        bounds=loose.bounds,
        grid=grid,
        multiple=multiple,
        smoothing=draw(st.floats(least_smoothing, 1)),
        max_ratio=draw(st.one_of(st.none(), st.floats(lowest, 8 * lowest))),
        dead_band=draw(st.floats(0, lowest - 1)),
        cooldown_steps=draw(st.integers(0, 5)),
        monotone=draw(st.booleans()),
    )


TARGETS = st.lists(st.one_of(ANY, st.floats(1, 6000)), max_size=30)


@given(limits=governors(), start=st.integers(1, 6000), targets=TARGETS, cut=st.integers(0, 30))
def test_a_governor_keeps_its_limits(limits: GovernorSettings, start: int, targets: list[float], cut: int) -> None:
    keeper, resumed = Governor(limits, start), Governor(limits, start)
    size, changed_at = keeper.size, None
    assert size in limits.sizes
    for step, target in enumerate(targets):
        if step == cut:
            resumed = Governor(limits)
            resumed.load_state_dict(json.loads(json.dumps(keeper.state_dict(), allow_nan=False)))
        commit = keeper.commit(Proposal(target, "test"), step=step, schedule="test")
        assert resumed.commit(Proposal(target, "test"), step=step, schedule="test") == commit
        assert commit.size == keeper.size
        assert commit.size in limits.sizes
        assert limits.bounds.min_size <= commit.size <= limits.bounds.max_size
        assert commit.changed == (commit.size != size)
        assert math.isfinite(commit.smoothed)
        if commit.changed:
            ratio = max(commit.size / size, size / commit.size)
            assert math.isfinite(target)
            assert ratio <= (limits.max_ratio or math.inf) * (1 + 1e-9)
            assert ratio >= 1 + limits.dead_band - 1e-9
            assert not (limits.monotone and commit.size < size)
            assert changed_at is None or step - changed_at >= limits.cooldown_steps
            changed_at = step
        size = commit.size


@settings(max_examples=40)
@given(limits=governors(least_smoothing=0.2, least_ratio=1.3), start=st.integers(1, 6000), target=st.floats(1, 6000))
def test_a_governor_gets_where_a_steady_proposal_points(limits: GovernorSettings, start: int, target: float) -> None:
    """But for the dead band, and for where down is not allowed: it is never stuck on the way."""
    keeper = Governor(limits, start)
    for step in range(1000):
        keeper.commit(Proposal(target, "test"), step=step, schedule="test")
    goal = limits.bounds.clamp(target)
    nearest = min(limits.sizes, key=lambda size: abs(size - goal))
    if not (limits.monotone and nearest < keeper.size):
        gap = max(nearest / keeper.size, keeper.size / nearest)
        widest = max((b / a for a, b in pairwise(limits.sizes)), default=1.0)
        assert gap <= max(1 + limits.dead_band, widest) * (1 + 1e-6)


@pytest.mark.parametrize("name", LR_RULES)
@settings(max_examples=50)
@given(stats=STATS, batch_size=st.integers(1, 10**6), base_size=st.integers(1, 10**6))
def test_a_learning_rate_is_finite_and_not_negative(
    name: str, stats: StepStats, batch_size: int, base_size: int
) -> None:
    change = make_lr_rule(name, {}).factor(batch_size, base_size, stats)
    assert 0 <= change.lr < math.inf
    assert change.lr <= max(1.0, batch_size / base_size) * (1 + 1e-9)
    assert change.betas is None or all(0 <= beta < 1 for beta in change.betas)
    assert change.eps is None or 0 < change.eps < math.inf
    assert make_lr_rule(name, {}).factor(batch_size, base_size, stats) == change
