import random

import pytest

from batchd import LatencyModel
from batchd.load import Load
from batchd.nnls import solve_nonnegative


def law(batch_size: int, elements: int) -> float:
    return 2e-3 + batch_size * (1e-4 + 2.4e-4 * elements + 1e-7 * elements**2)


def train(model: LatencyModel, count: int, noise: float = 0.0, factor: float = 1.0, seed: int = 1) -> None:
    rng = random.Random(seed)
    for _ in range(count):
        batch_size, elements = rng.choice([1, 2, 4, 8, 16]), rng.choice([8, 16, 32, 64, 128, 256])
        model.observe(
            Load.padded(batch_size, elements), factor * law(batch_size, elements) * rng.lognormvariate(0.0, noise)
        )


def relative_errors(model: LatencyModel, factor: float = 1.0) -> list[float]:
    errors = []
    for batch_size in (1, 3, 6, 12):
        for elements in (8, 24, 48, 96, 200):
            predicted = model.predict(Load.padded(batch_size, elements))
            assert predicted is not None
            errors.append(abs(predicted / (factor * law(batch_size, elements)) - 1))
    return sorted(errors)


def test_it_knows_nothing_before_the_first_sample() -> None:
    model = LatencyModel()
    assert model.predict(Load.padded(1, 8)) is None
    assert model.predict_upper(Load.padded(1, 8)) is None
    assert model.coefficients is None


def test_one_sample_predicts_itself() -> None:
    model = LatencyModel()
    model.observe(Load.padded(4, 32), 0.05)
    assert model.predict(Load.padded(4, 32)) == pytest.approx(0.05, rel=1e-3)


def test_it_recovers_the_law_from_twenty_noisy_samples() -> None:
    model = LatencyModel()
    train(model, 20, noise=0.1)
    errors = relative_errors(model)
    assert errors[len(errors) // 2] <= 0.12


def test_coefficients_are_never_negative_so_that_predictions_grow_with_size() -> None:
    model = LatencyModel()
    train(model, 60, noise=0.5)
    assert model.coefficients is not None
    assert min(model.coefficients) >= 0
    predictions = [model.predict(Load.padded(batch_size, 64)) for batch_size in range(1, 20)]
    assert predictions == sorted(predictions)


def test_a_hot_cell_does_not_drown_the_rest() -> None:
    model = LatencyModel()
    train(model, 40)
    for _ in range(2000):
        model.observe(Load.padded(1, 8), law(1, 8))
    assert relative_errors(model)[-1] <= 0.05


def test_what_is_kept_is_bounded_however_many_shapes_come() -> None:
    model = LatencyModel()
    rng = random.Random(9)
    for _ in range(5000):
        batch_size, elements = rng.randint(1, 64), rng.randint(2, 256)
        model.observe(Load.padded(batch_size, elements), law(batch_size, elements))
        model.observe(Load.padded(1, 8), law(1, 8))
    assert model.num_samples <= model.config.max_samples
    assert len(model.state_dict()["samples"]) == model.num_samples
    assert relative_errors(model)[-1] <= 0.05


def test_the_upper_time_covers_the_promised_share() -> None:
    model = LatencyModel()
    train(model, 400, noise=0.2)
    rng = random.Random(5)
    covered = 0
    for _ in range(500):
        batch_size, elements = rng.choice([1, 2, 4, 8, 16]), rng.choice([8, 64, 256])
        upper = model.predict_upper(Load.padded(batch_size, elements))
        assert upper is not None
        covered += law(batch_size, elements) * rng.lognormvariate(0.0, 0.2) <= upper
    assert covered / 500 >= 0.92


def test_a_device_that_turns_twice_as_slow_is_followed_within_twenty_batches() -> None:
    model = LatencyModel()
    train(model, 200, noise=0.05)
    train(model, 20, noise=0.05, factor=2.0, seed=2)
    errors = relative_errors(model, factor=2.0)
    assert errors[len(errors) // 2] <= 0.12


def test_batches_that_outgrow_the_caches_bend_the_law_and_leave_the_fixed_cost_alone() -> None:
    def bending(batch_size: int, elements: int) -> float:
        volume = batch_size * elements
        return 2.5e-3 + 1.07e-4 * volume + 1e-8 * volume**2

    model = LatencyModel()
    rng = random.Random(4)
    for _ in range(120):
        batch_size, elements = rng.choice([1, 2, 4, 8, 16, 32, 64]), rng.choice([8, 16, 32, 64, 128])
        model.observe(Load.padded(batch_size, elements), bending(batch_size, elements) * rng.lognormvariate(0.0, 0.03))
    assert model.coefficients is not None
    assert model.coefficients[0] == pytest.approx(2.5e-3, rel=0.2)
    assert model.coefficients[4] == pytest.approx(1e-8, rel=0.3)


def test_a_law_that_is_straight_is_not_bent_by_few_samples() -> None:
    model = LatencyModel()
    for batch_size in (1, 2, 4):
        model.observe(Load.padded(batch_size, 8), 0.01)
    assert model.coefficients is not None
    assert model.coefficients[4] == 0.0


def test_a_clock_that_stood_still_teaches_nothing() -> None:
    model = LatencyModel()
    model.observe(Load.padded(1, 8), 0.0)
    assert model.predict(Load.padded(1, 8)) is None


def test_state_survives_a_restart() -> None:
    model, copy = LatencyModel(), LatencyModel()
    train(model, 50, noise=0.1)
    copy.load_state_dict(model.state_dict())
    assert copy.upper_factor() == model.upper_factor()
    assert relative_errors(copy)[-1] == pytest.approx(relative_errors(model)[-1], abs=0.02)


@pytest.mark.parametrize(
    "state",
    [{}, {"clock": 1, "samples": [[1, 2]], "ratios": []}, {"clock": 1, "samples": [[1, 2, 3, -1.0]], "ratios": []}],
)
def test_a_broken_state_is_refused(state: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a latency model's state"):
        LatencyModel().load_state_dict(state)


def test_nonnegative_least_squares_agrees_with_scipy() -> None:
    import numpy as np
    from scipy.optimize import nnls

    rng = np.random.default_rng(3)
    for _ in range(50):
        rows = rng.normal(size=(20, 4))
        targets = rng.normal(size=20)
        ours = solve_nonnegative(rows, targets, np.ones(20))
        theirs, _ = nnls(rows, targets)
        assert np.allclose(ours, theirs, atol=1e-4)


def test_far_beyond_what_has_run_nothing_is_foretold() -> None:
    model = LatencyModel()
    for elements in (10, 40, 100):
        for _ in range(4):
            model.observe(Load.padded(1, elements), 1e-3 + 1e-6 * elements**2)
    assert model.reach == 800
    within = model.predict(Load.padded(1, 800))
    assert within == pytest.approx(1e-3 + 1e-6 * 800**2, rel=0.05)
    assert model.predict(Load.padded(1, 3_000_000)) == within
    model.observe(Load.padded(1, 3_000_000), 0.02)
    assert model.reach == 24_000_000
    assert model.predict(Load.padded(1, 3_000_000)) == pytest.approx(0.02, rel=0.5)
