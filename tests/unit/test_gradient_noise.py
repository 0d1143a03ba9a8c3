"""The estimator of gradient noise against problems whose noise is known in closed form."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from batchd.gradient_noise import GradientNoise, GradientSample, from_consecutive, from_microbatches


def norms2(gradients: np.ndarray) -> list[float]:
    return [float(gradient @ gradient) for gradient in gradients]


def estimate(gradients: np.ndarray, weights: list[int], population: int | None = None) -> GradientSample:
    """The sample of one step, given the mean gradient of each microbatch."""
    mean = np.average(gradients, axis=0, weights=weights)
    return from_microbatches(norms2(gradients), weights, float(mean @ mean), population=population)


def mean_and_error(values: list[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values) / math.sqrt(len(values)))


def assert_unbiased(values: list[float], truth: float, relative_error: float = 0.05) -> None:
    """Within four standard errors, which must be small enough for that to say something."""
    mean, error = mean_and_error(values)
    assert error < relative_error * abs(truth)
    assert abs(mean - truth) < 4 * error


@pytest.mark.parametrize(("num_microbatches", "size"), [(2, 16), (8, 8), (8, 64)])
def test_linear_regression_has_the_noise_scale_of_its_closed_form(num_microbatches: int, size: int) -> None:
    """x ~ N(0, I_d), y = x.theta + sigma * e, half the squared error: N = (d + 1) + d * sigma**2 / |delta|**2."""
    rng, d, sigma, length, trials = np.random.default_rng(1), 20, 1.5, 0.7, 2000
    delta = np.full(d, length / math.sqrt(d))
    truth = (d + 1) + d * sigma**2 / length**2
    assert truth == pytest.approx(112.837, abs=1e-3)

    samples = []
    for _ in range(trials):
        x = rng.standard_normal((num_microbatches, size, d))
        residual = x @ delta - sigma * rng.standard_normal((num_microbatches, size))
        samples.append(estimate(np.mean(x * residual[..., None], axis=1), [size] * num_microbatches))

    assert_unbiased([sample.S for sample in samples], (d + 1) * length**2 + d * sigma**2)
    assert_unbiased([sample.g2 for sample in samples], length**2)
    S, S_error = mean_and_error([sample.S for sample in samples])
    g2, g2_error = mean_and_error([sample.g2 for sample in samples])
    assert abs(S / g2 - truth) < 4 * truth * math.hypot(S_error / S, g2_error / g2)


def test_unequal_microbatches_are_weighed_exactly() -> None:
    rng, weights = np.random.default_rng(2), [5, 3, 8, 2]
    scale = np.sqrt(np.arange(1.0, 11.0))  # covariance diag(1..10): S = 55
    samples = []
    for _ in range(3000):
        noise = rng.standard_normal((4, 10)) * scale / np.sqrt(weights)[:, None]
        samples.append(estimate(0.3 + noise, weights))
    assert_unbiased([sample.S for sample in samples], 55.0)
    assert_unbiased([sample.g2 for sample in samples], 0.9)


def test_consecutive_gradients_serve_where_there_is_one_microbatch() -> None:
    rng, sizes = np.random.default_rng(3), (5, 8)
    scale = np.sqrt(np.arange(1.0, 11.0))
    samples = []
    for _ in range(3000):
        first, second = (1.0 + rng.standard_normal(10) * scale / math.sqrt(size) for size in sizes)
        gap = second - first
        sample = from_consecutive((first @ first, second @ second), sizes, gap @ gap)
        both = estimate(np.stack([first, second]), list(sizes))
        assert pytest.approx(both.S) == sample.S
        assert sample.g2 == pytest.approx(both.g2, abs=1e-9)
        samples.append(sample)
    assert_unbiased([sample.S for sample in samples], 55.0)
    assert_unbiased([sample.g2 for sample in samples], 10.0)
    assert samples[0].biased
    assert samples[0].batch_size == 8


GRADIENTS = st.integers(2, 6).flatmap(
    lambda k: st.lists(st.lists(st.floats(-10, 10), min_size=3, max_size=3), min_size=k, max_size=k)
)


@given(gradients=GRADIENTS, size=st.integers(1, 64))
def test_the_classic_ratio_and_the_unbiased_one_are_one_statistic(gradients: list[list[float]], size: int) -> None:
    """N = B * s / (k - 1 - s), and s reaches k - 1 exactly where the gradient is lost in noise."""
    rows = np.asarray(gradients)
    mean = rows.mean(axis=0)
    assume(mean @ mean > 1e-3)
    k, sample = len(rows), estimate(rows, [size] * len(rows))
    classic = float(np.mean(np.sum((rows - mean) ** 2, axis=1)) / (mean @ mean))
    assert sample.seed_noise == pytest.approx(classic, rel=1e-9, abs=1e-9)
    gap = k - 1 - classic
    assume(abs(gap) > 1e-6)
    assert (sample.g2 > 0) == (gap > 0)
    assert sample.S / sample.g2 == pytest.approx(k * size * classic / gap, rel=1e-6, abs=1e-9)


def test_the_classic_ratio_saturates_however_noisy_the_gradient() -> None:
    rng, k, size, d = np.random.default_rng(4), 8, 4, 50
    for noise in (10.0, 1e3, 1e5):
        ratios = [
            mean_ratio
            for mean_ratio in (
                estimate(0.1 + noise * rng.standard_normal((k, d)) / math.sqrt(size), [size] * k).seed_noise
                for _ in range(400)
            )
            if mean_ratio is not None
        ]
        truth = (d * noise**2) / (d * 0.1**2)
        assert np.mean(ratios) == pytest.approx((k - 1) * truth / (truth + k * size), rel=0.1)


def test_sampling_without_replacement_is_corrected() -> None:
    """Of n examples, E[S_hat] = S * n / (n - 1) and E[g2_hat] = g2 - S / (n - 1)."""
    rng, n, k, size = np.random.default_rng(5), 200, 4, 16
    examples = 0.12 + rng.standard_normal((n, 12))
    gradient = examples.mean(axis=0)
    g2, S = float(gradient @ gradient), float(np.mean(np.sum((examples - gradient) ** 2, axis=1)))
    plain, corrected = [], []
    for _ in range(3000):
        drawn = examples[rng.permutation(n)[: k * size]].reshape(k, size, -1).mean(axis=1)
        plain.append(estimate(drawn, [size] * k))
        corrected.append(estimate(drawn, [size] * k, population=n))
    assert_unbiased([sample.S for sample in plain], S * n / (n - 1))
    assert_unbiased([sample.g2 for sample in plain], g2 - S / (n - 1))
    assert_unbiased([sample.g2 for sample in corrected], g2)
    mean, error = mean_and_error([sample.g2 for sample in plain])
    assert abs(mean - g2) > 10 * error


def sample(S: float, g2: float, size: float = 32.0, *, biased: bool = False) -> GradientSample:
    return GradientSample(S=S, g2=g2, seed_noise=1.0, batch_size=size, num_microbatches=4, biased=biased)


def test_a_young_average_is_not_drawn_towards_0() -> None:
    noise = GradientNoise(decay=0.99)
    for count in range(1, 4):
        noise.observe(sample(8.0, 2.0))
        assert pytest.approx(8.0) == noise.read().S
        assert noise.read().noise_scale == (pytest.approx(4.0) if count >= 2 else None)


def test_a_sample_counts_for_its_examples() -> None:
    small, large = GradientNoise(base_size=32, decay=0.9), GradientNoise(base_size=32, decay=0.9)
    for noise in (small, large):
        noise.observe(sample(10.0, 1.0))
    small.observe(sample(2.0, 1.0))
    small.observe(sample(2.0, 1.0))
    large.observe(sample(2.0, 1.0, 64.0))
    assert pytest.approx(small.read().S) == large.read().S


def test_a_gradient_lost_in_noise_is_unresolved() -> None:
    noise = GradientNoise()
    for g2 in (-1.0, 1.5, -1.4, 1.1):
        noise.observe(sample(5.0, g2))
    reading = noise.read()
    assert reading.t is not None
    assert reading.t < 1
    assert not reading.resolved
    assert (reading.S, reading.noise_scale) == (pytest.approx(5.0), None)

    for _ in range(60):
        noise.observe(sample(5.0, 1.0))
    assert noise.read().resolved


def test_what_is_not_finite_is_left_out() -> None:
    noise = GradientNoise()
    assert noise.read().S is None
    assert not noise.observe(sample(math.inf, 1.0))
    assert not noise.observe(sample(1.0, math.nan))
    assert not noise.observe(sample(1.0, 1.0, math.inf))
    assert noise.read().samples == 0


def test_microbatches_replace_consecutive_gradients() -> None:
    noise = GradientNoise()
    noise.observe(sample(100.0, 1.0, biased=True))
    assert noise.read().biased
    noise.observe(sample(4.0, 1.0))
    assert pytest.approx(4.0) == noise.read().S
    assert not noise.observe(sample(100.0, 1.0, biased=True))
    assert not noise.read().biased


def test_the_averages_are_saved_and_loaded() -> None:
    whole, first, second = GradientNoise(), GradientNoise(), GradientNoise()
    for S in (3.0, 5.0, 9.0):
        whole.observe(sample(S, 1.0 + S))
        first.observe(sample(S, 1.0 + S))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for noise in (whole, second):
        noise.observe(sample(7.0, 2.0, 50.0))
    assert second.read() == whole.read()
    assert (whole.read().seed_noise, whole.read().num_microbatches) == (1.0, 4)
    with pytest.raises(ValueError, match="state of a gradient noise"):
        second.load_state_dict({"S": 1.0})


@pytest.mark.parametrize(("arguments", "field"), [({"base_size": 0}, "base_size"), ({"decay": 1.0}, "decay")])
def test_an_estimator_that_could_not_work_is_refused(arguments: dict[str, float], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        GradientNoise(**arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="min_t"):
        GradientNoise(min_t=math.nan)


def test_norms_that_say_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="two or more"):
        from_microbatches([1.0], [4], 1.0)
    with pytest.raises(ValueError, match="positive"):
        from_microbatches([1.0, 2.0], [4, 0], 1.0)
    with pytest.raises(ValueError, match="positive"):
        from_consecutive((1.0, 1.0), (0, 4), 1.0)
