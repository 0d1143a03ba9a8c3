from __future__ import annotations

import pytest
from controller_rig import controller, item, launched

from batchd import Completed, MemoryModel, MemoryModelConfig, MemoryReading, OutOfMemory
from batchd.memory_correction import ENOUGH
from batchd.memory_prior import MemoryPrior

MIB = 2**20


def peak(batch_size: int, elements: int) -> int:
    return max(1000 * batch_size * elements, 40 * batch_size * elements**2, 5_000_000 + 200 * batch_size * elements)


def foreseen(share: float = 1.0) -> MemoryModel:
    model = MemoryModel()
    for elements in (16, 64, 256):
        for batch_size in (1, 8, 64):
            model.foresee(batch_size, elements, int(share * peak(batch_size, elements)))
    return model


def test_an_empty_prior_says_nothing() -> None:
    prior = MemoryPrior()
    assert not prior
    assert prior.upper_bytes(1, 8) is None
    assert not prior.judge(1, 8, 100)


def test_the_first_batch_is_sized_by_the_prior_with_its_guess() -> None:
    model = foreseen()
    headroom = 1.15 * peak(30, 64)
    allowed = model.max_batch_size(64, int(headroom), 64)
    assert allowed > model.config.first_batch
    assert peak(allowed, 64) * 1.15 <= headroom


def test_without_headroom_a_prior_bounds_nothing_and_batches_grow_step_by_step() -> None:
    model = foreseen()
    assert model.max_batch_size(64, None, 64) == model.config.first_batch


def test_between_sizes_a_bound_is_the_chord_or_what_the_larger_item_takes() -> None:
    prior = MemoryPrior()
    for batch_size, elements, num_bytes in ((1, 100, 10), (3, 100, 50), (1, 200, 35), (3, 200, 90)):
        prior.foresee(batch_size, elements, num_bytes)
    assert prior.predicted(2, 100) == 30, "half-way on the chord"
    assert prior.predicted(6, 100) == 100, "in proportion beyond the largest batch"
    assert prior.predicted(1, 110) == pytest.approx(12.1), "the square of the ratio upwards"
    assert prior.predicted(1, 190) == 35, "what the next larger item takes"
    assert prior.predicted(1, 50) == 10, "never less for shorter items than was foreseen"
    assert prior.predicted(1, 400) == 140


def test_measured_ratios_replace_the_guess_and_never_fall_below_one() -> None:
    prior = MemoryPrior()
    prior.foresee(1, 100, 1000)
    for _ in range(ENOUGH):
        assert prior.factor == prior.guess
        prior.judge(1, 100, 800)
    assert prior.factor == 1.0
    prior.judge(1, 100, 1100)
    assert prior.factor == 1.1


def test_what_libraries_take_beside_a_small_batch_says_little_about_large_ones() -> None:
    prior = MemoryPrior()
    prior.foresee(1, 100, MIB)
    prior.foresee(64, 100, 64 * MIB)
    prior.judge(1, 100, 9 * MIB)
    assert prior.factor == 9.0, "all that is known"
    prior.judge(64, 100, 72 * MIB)
    assert prior.factor == prior.guess


def test_a_bound_is_never_below_what_a_smaller_batch_was_measured_to_take() -> None:
    model = MemoryModel(MemoryModelConfig(correction=1.0))
    model.foresee(1, 100, 1000)
    model.foresee(64, 100, 64_000)
    model.observe(2, 100, 60_000)  # a workspace, say
    model.observe(64, 100, 70_000)
    bound = model.upper_bytes(2, 100)
    assert bound is not None
    assert bound >= 60_000


def test_an_out_of_memory_error_wins_over_the_prior() -> None:
    model = foreseen()
    headroom = 10**12
    assert model.max_batch_size(64, headroom, 64) == 64
    model.observe_out_of_memory(20, 64, headroom)
    assert model.max_batch_size(64, headroom, 64) == 14
    model.observe_out_of_memory(1, 500, headroom)
    assert model.largest_single(headroom) == 500


def test_a_prior_is_not_saved_and_survives_the_loading_of_what_was() -> None:
    model = foreseen()
    assert MemoryModel().state_dict() == model.state_dict()
    made = controller()
    before = made.state_dict("m")
    made.foresee("m", 64, (8,), 64 * MIB)
    made.observe(MemoryReading(total=10**10))
    made.load_state_dict("m", before)
    for number in range(30):
        made.offer(item(number, 8), 0.0)
    assert len(launched(made, 0.0).items) == 30


def test_the_controllers_first_batch_is_as_large_as_the_memory_and_no_larger() -> None:
    made = controller()
    made.foresee("m", 1, (8,), 1 * MIB)
    made.foresee("m", 64, (8,), 64 * MIB)
    made.observe(MemoryReading(total=200 * MIB))  # 85 % of that less 64 MiB are 106 MiB, less what is resident
    for number in range(60):
        made.offer(item(number, 8), 0.0)
    made.observe(MemoryReading(total=200 * MIB, allocated=83 * MIB))
    batch = launched(made, 0.0)
    assert len(batch.items) == 20
    assert batch.predicted_bytes == pytest.approx(1.15 * 20 * MIB, abs=1)
    made.report(Completed(batch_id=batch.batch_id, seconds=0.01, peak_bytes=20 * MIB))
    assert len(launched(made, 0.0).items) == 20


def test_after_an_error_the_controller_retries_smaller_though_the_prior_says_that_it_fits() -> None:
    made = controller()
    made.foresee("m", 64, (8,), 64)
    made.observe(MemoryReading(total=10**10))
    for number in range(40):
        made.offer(item(number, 8), 0.0)
    batch = launched(made, 0.0)
    assert len(batch.items) == 40
    made.report(OutOfMemory(batch_id=batch.batch_id, peak_bytes=None))
    assert len(launched(made, 0.0).items) == 28
