"""What an out-of-memory error, or a close call, bounds, and for how long."""

from __future__ import annotations

from controller_rig import item, launched, taught

from batchd import Admitted, Completed, Controller, MemoryReading, OutOfMemory
from batchd.memory_model import MemoryModel

GIB = 2**30


def reading(free: int) -> MemoryReading:
    return MemoryReading(total=16 * GIB, device_free=free, reserved=0, allocated=0)


def busy(made: Controller, first: int) -> None:
    for number in range(first, first + 32):
        assert isinstance(made.offer(item(number, 64), 0.0), Admitted)


def test_the_reading_that_comes_with_the_error_is_the_one_that_its_bound_goes_by() -> None:
    """The sampler's last look was before a neighbour grew; when that leaves, the bound must go with it."""
    made = taught()
    made.observe(reading(8 * GIB))
    busy(made, 0)
    batch = launched(made, 0.0)
    made.report(OutOfMemory(batch_id=batch.batch_id, peak_bytes=None, reading=reading(2 * GIB)))
    assert made.headroom() == 2 * GIB - 64 * 2**20, "and the controller goes by it at once"
    smaller = launched(made, 0.0)
    assert len(smaller.items) <= 0.7 * len(batch.items)
    made.report(Completed(batch_id=smaller.batch_id, seconds=0.1, peak_bytes=None))

    made.observe(reading(8 * GIB))
    busy(made, 100)
    assert len(launched(made, 0.0).items) >= len(batch.items)


def test_without_a_reading_of_its_own_the_last_one_counts() -> None:
    made = taught()
    made.observe(reading(8 * GIB))
    busy(made, 0)
    batch = launched(made, 0.0)
    made.report(OutOfMemory(batch_id=batch.batch_id, peak_bytes=None))
    made.observe(reading(9 * GIB))
    assert len(launched(made, 0.0).items) <= 0.7 * len(batch.items), "an eighth more is not clearly more"


def test_a_tight_batch_may_run_again_but_not_grow_until_headroom_does() -> None:
    made = taught()
    made.observe(reading(8 * GIB))
    busy(made, 0)
    batch = launched(made, 0.0)
    made.report(Completed(batch_id=batch.batch_id, seconds=0.1, peak_bytes=None, tight=True))
    busy(made, 100)
    busy(made, 200)
    assert len(launched(made, 0.0).items) == len(batch.items)


def test_nor_may_one_of_larger_items() -> None:
    model = MemoryModel()
    model.observe(8, 64, 800)
    model.observe_tight(8, 64, 10_000)
    assert model.max_batch_size(64, 10_000, 64) == 8
    assert model.max_batch_size(128, 10_000, 64) <= 8
    assert model.max_batch_size(64, 12_001, 64) == 16
    assert model.largest_single(10_000) is None


def test_a_tight_single_item_is_not_one_that_does_not_fit() -> None:
    model = MemoryModel()
    model.observe(1, 64, 800)
    model.observe_tight(1, 64, 1000)
    assert model.largest_single(1000) is None
    assert model.max_batch_size(64, 1000, 64) == 1


def test_the_largest_fit_lies_between_what_ran_and_what_failed() -> None:
    model = MemoryModel()
    assert model.largest_fit(10_000) is None
    model.observe(1, 50, 500)
    assert model.largest_fit(10_000) == 50, "nothing is known beyond"
    model.observe_out_of_memory(1, 400, 10_000)
    fit = model.largest_fit(10_000)
    assert fit is not None
    assert 50 <= fit < 400
    assert (model.upper_bytes(1, fit) or 0) <= 10_000 < (model.upper_bytes(1, fit + 1) or 0)
    assert model.largest_fit(500) == 50, "what has run is known to fit"
