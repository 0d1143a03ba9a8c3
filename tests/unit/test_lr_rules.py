"""Learning-rate rules: limits of their formulas, and what they promise about SGD on a quadratic."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from batchd.lr_rules import LR_RULES, LRChange, lr_rule_schema, make_lr_rule
from batchd.schedules import StepStats


def stats(epoch: float = 100.0, **values: Any) -> StepStats:
    return StepStats(step=1, examples=1, epoch=epoch, train_size=1, batch_size=1, **values)


def factor(name: str, batch_size: int, base_size: int, given: StepStats | None = None, **parameters: Any) -> float:
    return make_lr_rule(name, parameters).factor(batch_size, base_size, given or stats()).lr


def test_each_rule_is_its_formula() -> None:
    given = stats(S=96.0, g2=1.0)  # N = 96
    found = {name: make_lr_rule(name, {}).factor(128, 32, given).lr for name in LR_RULES}
    assert found == pytest.approx(
        {
            "none": 1.0,
            "linear": 4.0,
            "sqrt": 2.0,
            "adascale": 4 * (96 + 32) / (96 + 128),
            "adam_sde": 2.0,
            "mccandlish": 1 / (1 + 96 / 128),
            "legw": 2.0,
            "online_selection": 4.0,
        }
    )


@pytest.mark.parametrize("kappa", [1, 2, 16])
def test_adascale_lies_between_one_and_the_ratio(kappa: int) -> None:
    quiet, loud = stats(S=0.0, g2=1.0), stats(S=1e12, g2=1.0)
    assert factor("adascale", 32 * kappa, 32, quiet) == pytest.approx(1.0)
    assert factor("adascale", 32 * kappa, 32, loud) == pytest.approx(kappa, rel=1e-6)
    gains = [factor("adascale", 32 * kappa, 32, stats(S=float(noise), g2=1.0)) for noise in (1, 10, 100, 1000)]
    assert gains == sorted(gains)
    assert all(1 <= gain <= kappa for gain in gains)
    assert factor("adascale", 32 * kappa, 32) == 1.0  # N unknown: no gain is claimed
    assert factor("adascale", 32, 32 * kappa) == 1 / kappa
    assert factor("adascale", 32 * kappa, 32, loud, exponent=0.5) == pytest.approx(math.sqrt(kappa), rel=1e-6)


def test_adascale_is_mccandlish_seen_from_the_base() -> None:
    given = stats(S=50.0, g2=0.5)
    assert factor("adascale", 64, 16, given) == pytest.approx(
        factor("mccandlish", 64, 16, given) / factor("mccandlish", 16, 16, given)
    )


def test_adam_forgets_as_many_examples_whatever_the_size() -> None:
    change = make_lr_rule("adam_sde", {"eps": 1e-6}).factor(128, 32, stats())
    assert change.betas == (pytest.approx(0.6), pytest.approx(0.996))
    assert change.eps == pytest.approx(5e-7)
    huge = make_lr_rule("adam_sde", {}).factor(32_000, 32, stats())
    assert huge.betas is not None
    assert all(0 <= beta < 1 for beta in huge.betas)


def test_a_warm_up_grows_to_the_factor() -> None:
    rule = make_lr_rule("linear", {})
    assert [rule.factor(96, 32, stats(epoch)).lr for epoch in (0.0, 2.5, 5.0, 9.0)] == pytest.approx([1, 2, 3, 3])
    assert rule.factor(16, 32, stats(0.0)).lr == 0.5  # a smaller rate needs no warm-up
    legw = make_lr_rule("legw", {"warmup_epochs": 1.0})
    assert [legw.factor(128, 32, stats(epoch)).lr for epoch in (0.0, 2.0, 4.0)] == pytest.approx([0, 1, 2])
    assert make_lr_rule("sqrt", {"warmup_epochs": 2.0}).factor(128, 32, stats(1.0)) == LRChange(1.5)


def test_the_rule_of_online_selection_moves_all_candidates_equally_far() -> None:
    factors = [factor("online_selection", size, 32, pool=256) for size in (256, 128, 64)]
    assert factors == [1, 0.5, 0.25]
    assert [256 // size * found for size, found in zip((256, 128, 64), factors, strict=True)] == [1, 1, 1]


def stationary_variance(lr: float, size: int, *, sigma2: float = 4.0, chains: int = 20_000, steps: int = 150) -> float:
    """The variance of SGD on theta**2 / 2 with gradient noise sigma2 / size, long after the start."""
    rng, theta = np.random.default_rng(1), np.zeros(chains)
    for _ in range(steps):
        theta -= lr * (theta + math.sqrt(sigma2 / size) * rng.standard_normal(chains))
    return float(theta.var())


RELATIVE_ERROR = math.sqrt(2 / 20_000)  # of a variance over that many normal chains


def test_the_linear_rule_keeps_the_noise_of_sgd_but_for_a_known_ratio() -> None:
    """eta * sigma2 / (B * h * (2 - eta * h)); at kappa = 4 the ratio is (2 - eta * h) / (2 - 4 * eta * h)."""
    base = stationary_variance(0.1, 8)
    scaled = stationary_variance(0.1 * factor("linear", 32, 8), 32)
    assert base == pytest.approx(0.026316, rel=4 * RELATIVE_ERROR)
    assert scaled == pytest.approx(0.03125, rel=4 * RELATIVE_ERROR)
    assert scaled / base == pytest.approx(1.9 / 1.6, rel=6 * RELATIVE_ERROR)


@pytest.mark.parametrize("eta", [0.4, 0.1])
def test_a_larger_size_does_what_a_smaller_rate_does(eta: float) -> None:
    """Smith: (eta / a, B) and (eta, a * B) have equal noise as eta * h goes to 0; the ratio is known."""
    a = 4
    decayed, grown = stationary_variance(eta / a, 8), stationary_variance(eta, 8 * a)
    assert grown / decayed == pytest.approx((2 - eta / a) / (2 - eta), rel=6 * RELATIVE_ERROR)
    assert grown / decayed <= (2 - eta / a) / (2 - eta) * (1 + 6 * RELATIVE_ERROR)


def test_steps_are_traded_for_examples_along_a_hyperbola() -> None:
    """(steps / fewest steps - 1) * (examples / fewest examples - 1) = 1, and both are doubled at B = N.

    One step on |theta|**2 / 2 at the rule's rate, the best one: its gain is the largest gain / (1 + N / B).
    """
    rng, trials = np.random.default_rng(6), 20_000
    theta = np.full(10, 0.3)
    covariance = np.arange(1.0, 11.0) / 5
    g2, S = float(theta @ theta), float(covariance.sum())
    noise_scale, most = S / g2, g2 / 2
    given = stats(S=S, g2=g2)
    for size in (3, 12, 49):
        lr = factor("mccandlish", size, 1, given)
        gradients = theta + rng.standard_normal((trials, 10)) * np.sqrt(covariance / size)
        gains = g2 / 2 - np.sum((theta - lr * gradients) ** 2, axis=1) / 2
        gain, error = float(gains.mean()), float(gains.std() / math.sqrt(trials))
        assert error < 0.02 * gain
        assert abs(gain - most / (1 + noise_scale / size)) < 4 * error
        steps, examples = most / gain, size * most / gain  # in units of the fewest steps; fewest examples: N of them
        bound = 4 * error / gain * (2 + size / noise_scale + noise_scale / size)  # to first order in the gain's error
        assert (steps - 1) * (examples / noise_scale - 1) == pytest.approx(1.0, abs=bound)

        def expected(rate: float, size: int = size) -> float:
            return g2 / 2 * (2 * rate - rate**2 * (1 + noise_scale / size))

        assert expected(lr) > max(expected(0.8 * lr), expected(1.2 * lr))
    steps_at_noise_scale = 1 / factor("mccandlish", round(noise_scale), 1, stats(S=float(round(noise_scale)), g2=1.0))
    assert steps_at_noise_scale == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("lin", {}, "there are none, linear, sqrt"),
        ("sqrt", {"beta": 1}, "no parameter 'beta'; its parameters: warmup_epochs, warmup_from"),
        ("adam_sde", {"beta1": 1.0}, r"beta1 must be a finite number in \[0, 1\)"),
        ("linear", {"warmup_epochs": -1}, "warmup_epochs"),
    ],
)
def test_what_cannot_work_is_refused_by_name(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_lr_rule(name, parameters)


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        factor("sqrt", 0, 8)


def test_every_rule_describes_its_parameters() -> None:
    for name in LR_RULES:
        schema = lr_rule_schema(name)
        defaults = {key: entry["default"] for key, entry in schema["properties"].items()}
        assert make_lr_rule(name, defaults) == make_lr_rule(name, {})
    with pytest.raises(ValueError, match="there are"):
        lr_rule_schema("lars")
