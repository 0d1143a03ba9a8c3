"""The threshold rule: its marks, its hysteresis, and what it takes memory use to be."""

from __future__ import annotations

import pytest

from batchd import Completed, Item, ItemId, MemoryReading, OutOfMemory, RunBatch
from batchd.baselines import MemoryThreshold
from batchd.baselines.threshold import memory_use

EMPTY = MemoryReading(total=1000, device_free=1000)


class Driver:
    """Keeps the queue full and reports peaks."""

    def __init__(self, rule: MemoryThreshold) -> None:
        self.rule = rule
        self.number = 0

    def launch(self, queued: int = 64) -> RunBatch:
        for _ in range(queued):
            self.rule.offer(Item(id=ItemId(self.number), model="m", shape=(8,), arrived=0.0, deadline=1.0), 0.0)
            self.number += 1
        batch = self.rule.next(0.0)
        assert isinstance(batch, RunBatch)
        return batch

    def sizes(self, *peaks: int | None) -> list[int]:
        launched = []
        for peak in peaks:
            batch = self.launch()
            launched.append(len(batch.items))
            self.rule.report(Completed(batch_id=batch.batch_id, seconds=0.1, peak_bytes=peak))
        return launched


def rule(size: int = 16, max_batch_size: int = 24, reading: MemoryReading = EMPTY) -> Driver:
    made = MemoryThreshold(0.5, 0.8, size, max_batch_size)
    made.observe(reading)
    return Driver(made)


def test_it_shrinks_over_the_high_mark_and_grows_under_the_low_one_up_to_the_maximum() -> None:
    assert rule().sizes(900, 900, 100, 100, 100) == [16, 12, 9, 11, 13]
    assert rule().sizes(*[100] * 7) == [16, 18, 20, 22, 24, 24, 24]
    assert rule(size=2).sizes(*[900] * 4) == [2, 1, 1, 1]


@pytest.mark.parametrize("peak", [500, 650, 800])
def test_between_the_marks_nothing_changes(peak: int) -> None:
    assert rule().sizes(*[peak] * 5) == [16] * 5


def test_an_oom_halves() -> None:
    driver = rule()
    batch = driver.launch()
    settled = driver.rule.report(OutOfMemory(batch_id=batch.batch_id, peak_bytes=None))
    assert settled.impossible == batch.items
    assert driver.sizes(600) == [8]


def test_a_batch_that_was_not_full_says_nothing_about_larger_ones() -> None:
    driver = rule()
    batch = driver.launch(queued=3)
    driver.rule.report(Completed(batch_id=batch.batch_id, seconds=0.1, peak_bytes=1))
    assert driver.sizes(600) == [16]


def test_without_a_reading_the_size_stays() -> None:
    assert rule(reading=MemoryReading()).sizes(900, 1, None) == [16, 16, 16]


def test_a_neighbour_shrinks_it_too() -> None:
    assert rule(reading=MemoryReading(total=1000, device_free=100)).sizes(None, None) == [16, 12]


@pytest.mark.parametrize(
    ("reading", "peak", "use"),
    [
        (MemoryReading(device_free=5), 5, None),
        (MemoryReading(total=1000), 100, 0.1),
        (MemoryReading(total=1000, device_free=400), None, 0.6),
        (MemoryReading(total=1000, device_free=400, allocated=300), 100, 0.7),
        (MemoryReading(total=1000, device_free=400, allocated=300, reserved=500), 100, 0.5),  # 200 are only cached
    ],
)
def test_what_is_in_use(reading: MemoryReading, peak: int | None, use: float | None) -> None:
    assert memory_use(reading, peak) == use
