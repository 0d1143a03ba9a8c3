"""Schedules by their formulas: plans as tables, feedback on inputs whose answer is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from batchd.schedules import SCHEDULES, BoundedSchedule, Bounds, CandidateLoss, StepStats, Task, make_schedule
from batchd.schedules.catalogue import schedule_schema
from batchd.schedules.curriculum import Curriculum
from batchd.schedules.loss_trend import loss_variance
from batchd.schedules.online_selection import OnlineSelection

TEN_CLASSES = Task(kind="classification", num_classes=10)


def make(name: str, bounds: tuple[int, int] = (16, 64), task: Task = TEN_CLASSES, **parameters: Any) -> BoundedSchedule:
    return make_schedule(name, parameters, Bounds(*bounds), task)


def stats(epoch: float = 0.0, *, batch_size: int = 16, **values: Any) -> StepStats:
    fixed: dict[str, Any] = {"step": 0, "examples": round(1000 * epoch), "epoch": epoch, "train_size": 1000}
    return StepStats(**fixed, batch_size=batch_size, **values)


def targets(schedule: BoundedSchedule, epochs: int) -> list[float]:
    return [schedule.propose(stats(float(epoch))).target for epoch in range(epochs)]


def after_losses(schedule: BoundedSchedule, losses: list[float]) -> list[float]:
    return [schedule.propose(stats(float(epoch), loss=loss)).target for epoch, loss in enumerate(losses)]


@pytest.mark.parametrize(
    ("name", "bounds", "parameters", "expected"),
    [
        ("fixed", (1, 100), {"size": 24}, [24, 24]),
        ("fixed", (1, 100), {}, [16, 16]),
        ("linear", (16, 64), {}, [16, 24, 32, 40, 48, 56, 64, 64, 64]),
        ("linear", (16, 64), {"increment": -20}, [64, 44, 24, 16, 16]),
        ("exponential", (16, 100), {}, [16, 24, 36, 54, 81, 100]),
        ("exponential", (16, 64), {"factor": 0.5}, [64, 32, 16, 16]),
        ("cyclical", (16, 256), {"cycle": 4}, [16, 32, 64, 128, 16, 32]),
        ("cyclical", (16, 256), {"cycle": 4, "shape": "triangle"}, [16, 64, 256, 64, 16]),
        ("cyclical", (16, 256), {"cycle": 4, "shape": "cosine"}, [16, 64, 256, 64, 16]),
        ("cyclical", (16, 256), {"cycle": 2, "num_cycles": 2}, [16, 64, 16, 64, 256, 256]),
        ("warmup", (16, 100), {"milestones": [1, 3, 4]}, [16, 32, 32, 64, 100]),
    ],
)
def test_a_plan_is_its_table(
    name: str, bounds: tuple[int, int], parameters: dict[str, Any], expected: list[float]
) -> None:
    assert targets(make(name, bounds, **parameters), len(expected)) == pytest.approx(expected)


def test_a_plan_may_count_examples_and_never_counts_steps() -> None:
    plan = make("linear", every_examples=500)
    assert targets(plan, 4) == [16, 32, 48, 64]
    early = StepStats(step=10**6, examples=999, epoch=0.999, train_size=1000, batch_size=16)
    assert plan.propose(early).target == 24


def test_a_plan_does_not_run_away() -> None:
    assert make("exponential", (1, 10**6)).propose(stats(1e9)).target == 10**6
    assert make("exponential", (2, 10**6), factor=1e-9).propose(stats(1e9)).target == 2
    assert make("linear").propose(stats(1e300)).target == 64


def test_a_whole_epoch_that_rounding_cut_short_is_whole() -> None:
    assert make("linear").propose(stats(3 - 1e-12)).target == 40


@pytest.mark.parametrize("name", ["loss_difference", "loss_moving_average"])
def test_a_falling_loss_moves_up_and_a_rising_one_down_after_patience(name: str) -> None:
    falling = after_losses(make(name, patience=2), [1.0, 0.8, 0.6, 0.4, 0.3])
    assert falling == pytest.approx([16, 16, 24, 24, 36])
    rising = make(name, patience=1)
    assert after_losses(rising, [0.5, 0.2, 0.1, 0.01])[-1] > 16
    assert after_losses(rising, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])[-1] == 16
    flat = after_losses(make(name, patience=1), [1.0, 1.001, 0.999, 1.0])
    assert flat == [16] * 4
    inverted = make(name, patience=1, falling="down")
    assert after_losses(inverted, [1.0, 2.0])[-1] == 24


def test_a_target_at_its_bound_comes_back_at_once() -> None:
    schedule = make("loss_difference", patience=1)
    assert after_losses(schedule, [2.0**-i for i in range(40)])[-1] == 64
    assert schedule.propose(stats(loss=1.0)).target == pytest.approx(64 / 1.5)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"move": "add", "increment": 5}, 21.0),
        ({"move": "proportional", "gain": 1.0}, 16 * math.exp(0.2)),
        ({"move": "proportional", "gain": 100.0}, 24.0),
    ],
)
def test_moves_come_in_three_forms(parameters: dict[str, Any], expected: float) -> None:
    schedule = make("loss_difference", patience=1, **parameters)
    assert after_losses(schedule, [1.0, 0.8])[-1] == pytest.approx(expected)


def test_the_moving_average_moves_by_its_share_of_the_surprise() -> None:
    schedule = make("loss_moving_average", alpha=0.25)
    average = 2.0
    schedule.propose(stats(loss=average))
    for loss in (1.0, 3.0, 0.5):
        schedule.propose(stats(loss=loss))
        assert schedule.state_dict()["average"] - average == pytest.approx(0.25 * (loss - average))
        average = schedule.state_dict()["average"]


@pytest.mark.parametrize(("window", "slope"), [(5, 1.0), (3, -2.0), (12, 0.1)])
def test_a_trend_has_the_variance_of_a_line_and_none_without_it(window: int, slope: float) -> None:
    losses = [10 + slope * place for place in range(window)]
    assert loss_variance(losses, detrend=False) == pytest.approx(slope**2 * (window**2 - 1) / 12)
    assert loss_variance(losses, detrend=True) == pytest.approx(0.0, abs=1e-20)
    assert loss_variance([1.0, 2.0, 3.0, 4.0, 5.0], detrend=False) == 2.0


def test_a_fast_convergence_is_not_taken_for_scatter() -> None:
    losses = [10 - 0.5 * epoch for epoch in range(10)]
    assert after_losses(make("loss_variance"), losses)[-1] > 16
    assert after_losses(make("loss_variance", detrend=False), losses)[-1] == 16
    scattered = [1.0, 2.0] * 5
    assert make("loss_variance").propose(stats(loss=1.0, batch_size=64)).target == 64
    down = make("loss_variance")
    assert [down.propose(stats(loss=loss, batch_size=64)).target for loss in scattered][-1] < 64


def test_a_larger_batch_does_not_calm_its_own_signal() -> None:
    """The variance of a batch's loss goes with 1 / B; corrected for that, the judgement is the same at any size."""
    rng = np.random.default_rng(1)
    noise = rng.standard_normal(40)
    judged = {}
    for size in (16, 64):
        corrected, plain = make("loss_variance", (16, 64)), make("loss_variance", (16, 64), size_corrected=False)
        losses = [1 + 0.35 * value * math.sqrt(16 / size) for value in noise]
        reasons = [
            [schedule.propose(stats(loss=loss, batch_size=size)).reason for loss in losses]
            for schedule in (corrected, plain)
        ]
        judged[size] = [[float(why.split("variation ")[1].split(",")[0]) for why in one[5:]] for one in reasons]
    assert np.mean(judged[64][0]) == pytest.approx(np.mean(judged[16][0]), rel=0.1)
    assert np.mean(judged[64][1]) == pytest.approx(np.mean(judged[16][1]) / 2, rel=0.1)


def test_entropy_maps_from_unsure_to_sure() -> None:
    unsure = make("entropy", (16, 256)).propose(stats(entropy=math.log(10)))
    sure = make("entropy", (16, 256)).propose(stats(entropy=0.0))
    half = make("entropy", (16, 256)).propose(stats(entropy=math.log(10) / 2))
    bent = make("entropy", (16, 256), power=2.0).propose(stats(entropy=math.log(10) / 2))
    assert [unsure.target, sure.target, half.target, bent.target] == pytest.approx([16, 256, 64, 32])


def test_entropy_may_move_by_thresholds() -> None:
    schedule = make("entropy", mode="incremental", patience=1, alpha=1.0)
    entropies = [0.5, 0.1, 0.1, 0.5, 0.9]
    sizes = [schedule.propose(stats(entropy=math.log(10) * value)).target for value in entropies]
    assert sizes == pytest.approx([16, 24, 36, 36, 24])


def test_the_rules_of_gradient_noise() -> None:
    """N = 300: each rule is its formula."""
    given = {"S": 600.0, "g2": 2.0, "alpha": 0.02, "beta": 0.0005, "loss": 0.5, "learning_rate": 0.1}
    expected = {
        "noise_scale": 300.0,
        "goodput": math.sqrt(300 * 0.02 / 0.0005),
        "norm_test": 300 / 0.25,
        "gradient_diversity": 301.0,
        "cabs": 0.1 * 600 / 0.5,
    }
    found = {name: make(name, (1, 10_000)).propose(stats(**given)).target for name in expected}
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("base_size", [1, 32, 500])
def test_goodput_is_the_best_of_all_sizes(base_size: int) -> None:
    alpha, beta, noise_scale = 0.02, 0.0005, 300.0
    found = make("goodput", (1, 2000)).propose(stats(S=noise_scale, g2=1.0, alpha=alpha, beta=beta)).target
    assert found == pytest.approx(109.54, abs=0.01)
    sizes = np.arange(1, 2001)
    goodput = sizes / (alpha + beta * sizes) * (noise_scale + base_size) / (noise_scale + sizes)
    assert abs(int(sizes[np.argmax(goodput)]) - found) < 1
    quiet = make("goodput", (8, 2000)).propose(stats(S=0.0, g2=1.0, alpha=alpha, beta=beta))
    assert quiet.target == 8


def test_noise_that_hides_the_gradient_moves_up_by_a_little() -> None:
    for name in ("noise_scale", "goodput", "norm_test", "gradient_diversity"):
        for g2 in (None, -1.0, 0.0):
            lost = stats(batch_size=40, S=5.0, g2=g2, alpha=0.01, beta=0.001)
            assert make(name, (1, 10_000)).propose(lost).target == pytest.approx(60.0)


def test_the_norm_test_never_moves_down() -> None:
    assert make("norm_test", (1, 500)).propose(stats(batch_size=400, S=1.0, g2=1.0)).target == 400


def test_the_classic_ratio_moves_by_thresholds_of_its_range() -> None:
    schedule = make("noise_scale", (1, 1000), statistic="classic")
    given: dict[str, Any] = {"batch_size": 100, "S": 1.0, "g2": None, "num_microbatches": 5}
    sizes = [schedule.propose(stats(**given, seed_noise=ratio)).target for ratio in (3.5, 2.0, 0.5)]
    assert sizes == pytest.approx([150, 100, 100 / 1.5])
    assert schedule.propose(stats(**given)).reason == "hold: the classic ratio is missing or not finite"


def candidate(size: int, loss: float, seconds: float | None = None) -> CandidateLoss:
    return CandidateLoss(size=size, loss=loss, seconds=seconds)


def test_online_selection_takes_the_best_and_of_equals_the_largest() -> None:
    schedule = make("online_selection", (8, 256))
    assert isinstance(schedule, OnlineSelection)
    assert schedule.sizes == (256, 128, 64)
    different = (candidate(256, 1.2), candidate(128, 1.1), candidate(64, 1.3))
    assert schedule.propose(stats(candidates=different)).target == 128
    assert make("online_selection", (8, 256), choose="max").propose(stats(candidates=different)).target == 64
    equal = (candidate(64, 1.0 - 1e-9), candidate(256, 1.0), candidate(128, 1.0 + 1e-9))
    assert schedule.propose(stats(candidates=equal)).target == 256
    broken = (candidate(256, math.nan), candidate(64, 1.0), candidate(7, 0.0))
    assert schedule.propose(stats(candidates=broken)).target == 64


def test_lookahead_counts_what_a_second_brings() -> None:
    schedule = make("online_selection", (8, 256), score="lookahead")
    timed = (candidate(256, 1.5, 1.0), candidate(128, 1.0, 2.0), candidate(64, 2.0, 4.0))
    assert schedule.propose(stats(candidates=timed)).target == 256  # 0.5 a second; 1.0 in two is as good, but smaller
    slower = (candidate(256, 1.5, 1.0), candidate(128, 0.9, 2.0), candidate(64, 2.0, 4.0))
    assert schedule.propose(stats(candidates=slower)).target == 128
    untimed = tuple(candidate(entry.size, entry.loss) for entry in timed)
    assert schedule.propose(stats(candidates=untimed)).target == 128


def test_a_curriculum_ends_with_all_the_data_and_never_takes_any_back() -> None:
    schedule = make("curriculum", (10, 110), initial=0.2, duration_epochs=4)
    assert isinstance(schedule, Curriculum)
    proposals = [schedule.propose(stats(epoch / 2)) for epoch in range(13)]
    shares = [proposal.data_fraction for proposal in proposals]
    assert shares[0] == pytest.approx(0.2)
    assert shares == sorted(shares)
    assert shares[8:] == [1.0] * 5
    assert shares[4] == pytest.approx(math.sqrt((1 - 0.04) / 2 + 0.04))
    assert [proposal.target for proposal in proposals] == pytest.approx([10 + 100 * share for share in shares])


def test_memory_must_be_asked_for_twice() -> None:
    with pytest.raises(ValueError, match="accept_not_portable"):
        make("memory")
    schedule = make("memory", (8, 256), accept_not_portable=True)
    assert not schedule.portable
    sizes = [schedule.propose(stats(batch_size=64, memory_used=used)).target for used in (0.9, 0.7, 0.5)]
    assert sizes == [32, 64, 72]


@pytest.mark.parametrize("name", SCHEDULES)
def test_without_its_statistics_a_schedule_holds_the_size(name: str) -> None:
    schedule = make(name, (8, 256), **({"accept_not_portable": True} if name == "memory" else {}))
    if schedule.needs:
        before = schedule.state_dict()
        proposal = schedule.propose(stats(batch_size=48))
        assert (proposal.target, proposal.reason[:5]) == (48, "hold:")
        assert schedule.state_dict() == before


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_describes_its_parameters(name: str) -> None:
    schema = schedule_schema(name)
    assert schema["additionalProperties"] is False
    assert not {"bounds", "task"} & set(schema["properties"])
    defaults = {key: entry["default"] for key, entry in schema["properties"].items()}
    if name == "memory":
        defaults["accept_not_portable"] = True
    assert (
        make(name, **defaults).state_dict()
        == make(name, **({"accept_not_portable": True} if name == "memory" else {})).state_dict()
    )


@pytest.mark.parametrize(
    ("name", "parameters", "task", "message"),
    [
        ("linaer", {}, TEN_CLASSES, "there are fixed, linear, exponential"),
        ("linear", {"slope": 1}, TEN_CLASSES, "no parameter 'slope'; its parameters: every_examples, start, increment"),
        ("linear", {"target": 3}, TEN_CLASSES, "no parameter 'target'"),
        ("loss_difference", {"target": 3}, TEN_CLASSES, "no parameter 'target'"),
        ("linear", {"bounds": 3}, TEN_CLASSES, "no parameter 'bounds'"),
        ("linear", {"increment": math.nan}, TEN_CLASSES, "increment must be a finite number"),
        ("linear", {"increment": True}, TEN_CLASSES, "increment must be a finite number"),
        ("linear", {"every_examples": 10**400}, TEN_CLASSES, r"every_examples must be an integer in \[1, inf\)"),
        ("norm_test", {"theta": 1.0}, TEN_CLASSES, r"theta must be a finite number in \(0, 1\), got 1.0"),
        ("loss_difference", {"move": "jump"}, TEN_CLASSES, "move must be one of 'multiply', 'add', 'proportional'"),
        ("loss_variance", {"low": 0.5}, TEN_CLASSES, "low must be below high"),
        ("warmup", {"milestones": []}, TEN_CLASSES, "milestones must be strictly increasing"),
        ("warmup", {"milestones": "ab"}, TEN_CLASSES, "milestones must be a list"),
        ("fixed", {"size": 65}, TEN_CLASSES, r"size must be in \[16, 64\]"),
        ("online_selection", {"candidates": [128]}, TEN_CLASSES, r"candidates must be in \[16, 64\]"),
        ("online_selection", {"score": "lookahead", "choose": "max"}, TEN_CLASSES, "choose must be 'min'"),
        ("entropy", {"low": 0.8}, TEN_CLASSES, "low must be below high"),
        ("noise_scale", {"low": 0.8}, TEN_CLASSES, "low must be below high"),
        ("memory", {"low": 0.9, "accept_not_portable": True}, TEN_CLASSES, "low must be below high"),
        ("online_selection", {"candidates": []}, TEN_CLASSES, "candidates must not be empty"),
        ("entropy", {}, Task(), "at least 2 classes"),
        ("entropy", {}, Task(kind="classification", num_classes=1), "at least 2 classes"),
        ("fixed", {}, Task(train_size=63), "max_size must be at most the 63 training examples"),
    ],
)
def test_what_cannot_work_is_refused_by_name(name: str, parameters: dict[str, Any], task: Task, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_schedule(name, parameters, Bounds(16, 64), task)


@pytest.mark.parametrize(("low", "high", "field"), [(0, 4, "min_size"), (8, 4, "max_size"), (1.5, 4, "min_size")])
def test_bounds_out_of_order_are_refused(low: Any, high: Any, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        Bounds(low, high)
    with pytest.raises(ValueError, match="num_classes"):
        Task(kind="classification")


def test_a_state_of_another_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="state of entropy"):
        make("entropy").load_state_dict({"previous": 1.0})


def test_cabs_holds_where_its_formula_has_no_sense() -> None:
    given: dict[str, Any] = {"batch_size": 40, "S": 1.0, "g2": 1.0}
    assert make("cabs").propose(stats(**given, loss=1.0)).reason == "hold: learning rate is missing or not finite"
    reached = make("cabs", best_loss=1.0).propose(stats(**given, loss=0.5, learning_rate=0.1))
    assert (reached.target, reached.reason) == (40, "hold: average loss 0.5 is not above best_loss")


def test_a_size_that_is_not_finite_is_none() -> None:
    proposal = make("noise_scale", scale=1e300).propose(stats(batch_size=40, S=1e300, g2=1e-300))
    assert proposal.target == 40
    assert proposal.reason.startswith("hold: no finite size")


def test_names_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="there are fixed"):
        schedule_schema("fix")
    with pytest.raises(ValueError, match="no statistic is called"):
        stats().has("weather")
    assert make("online_selection", candidates=[16, 64, 16]).sizes == (64, 16)  # type: ignore[attr-defined]
