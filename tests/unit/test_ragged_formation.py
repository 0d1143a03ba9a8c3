"""Batches whose items lie end to end: what is counted, who is aboard, and what bounds them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd import (
    Admitted,
    Completed,
    Controller,
    Item,
    ItemId,
    LatencyModel,
    MemoryModel,
    MemoryReading,
    ModelPolicy,
    OutOfMemory,
    Refused,
    ReleaseReason,
    RunBatch,
    ragged_memory,
)
from batchd.budget import BudgetPolicy
from batchd.load import Load, rung_below
from batchd.policy import Layout

sizes = st.lists(st.integers(1, 300), min_size=1, max_size=20)


def controller(**policy: object) -> Controller:
    made = Controller(BudgetPolicy(limit_fraction=1.0, safety_bytes=0))
    made.add_model("m", ModelPolicy(**{"slo_s": 1.0, "layout": Layout.RAGGED, **policy}))  # type: ignore[arg-type]
    return made


def seconds(load: Load) -> float:
    return 2e-3 + 1e-4 * load.batch_size + 1e-4 * load.elements + 1e-6 * load.squares


def teach(made: Controller) -> None:
    for count in (1, 2, 4, 8, 16, 32, 64, 128):
        for length in (8, 64, 256):
            made.calibrate("m", count, (length,), seconds(Load.padded(count, length)))


def offer(made: Controller, lengths: list[int], deadlines: list[float] | None = None) -> None:
    for number, length in enumerate(lengths):
        deadline = 1e6 if deadlines is None else deadlines[number]
        item = Item(id=ItemId(number), model="m", shape=(length,), arrived=0.0, deadline=deadline)
        assert isinstance(made.offer(item, 0.0), Admitted)


def launched(made: Controller, now: float = 0.0) -> RunBatch:
    decision = made.next(now)
    assert isinstance(decision, RunBatch)
    return decision


@given(sizes)
def test_a_load_is_the_same_however_it_is_summed(lengths: list[int]) -> None:
    load = Load.ragged(lengths)
    grown = Load.ragged(lengths[:1])
    for length in lengths[1:]:
        grown = grown.plus(length)
    assert grown == load
    assert load.elements**2 <= load.batch_size * load.squares
    assert Load.ragged([7] * len(lengths)) == Load.padded(len(lengths), 7)


@given(sizes)
def test_equal_items_are_a_cell_of_their_own_and_all_loads_fall_into_few(lengths: list[int]) -> None:
    cell = Load.ragged(lengths).cell()
    if len(set(lengths)) == 1:
        assert cell == Load.ragged(lengths)
    assert cell.batch_size <= len(lengths) <= 1.25 * cell.batch_size
    assert cell.elements <= sum(lengths) <= 1.25 * cell.elements


@given(st.integers(0, 10**9), st.sampled_from([1, 4, 8]))
def test_a_rung_is_below_by_less_than_one_part(size: int, parts: int) -> None:
    rung = rung_below(size, parts)
    assert rung <= size
    assert size == 0 or size - rung < max(1, (1 << (size.bit_length() - 1)) / parts)
    assert rung_below(rung, parts) == rung


def test_the_latency_law_is_recovered_from_ragged_batches_alone() -> None:
    import random

    rng = random.Random(3)

    def drawn() -> Load:
        return Load.ragged([rng.choice([3, 10, 30, 100, 250]) for _ in range(rng.randint(1, 24))])

    model = LatencyModel()
    for _ in range(120):
        load = drawn()
        model.observe(load, seconds(load) * rng.lognormvariate(0.0, 0.03))
    assert model.coefficients is not None
    assert model.coefficients[2] == pytest.approx(1e-4, rel=0.15)
    assert model.coefficients[3] == pytest.approx(1e-6, rel=0.15)
    errors = []
    for _ in range(50):
        load = drawn()
        predicted = model.predict(load)
        assert predicted is not None
        errors.append(abs(predicted / seconds(load) - 1))
    assert max(errors) <= 0.1
    copy = LatencyModel()
    copy.load_state_dict(model.state_dict())
    assert copy.predict(Load.ragged([5, 100])) == pytest.approx(model.predict(Load.ragged([5, 100])), rel=0.05)


def test_sizes_that_no_items_have_are_no_state() -> None:
    with pytest.raises(ValueError, match="sizes must be possible"):
        LatencyModel().load_state_dict({"clock": 1, "samples": [[2, 10, 49, 1, 0.1]], "ratios": []})


def test_whatever_the_sizes_the_most_urgent_items_share_a_batch_without_padding() -> None:
    made = controller(max_batch_size=4)
    teach(made)
    offer(made, [250, 3, 120, 8, 60, 9], [9e5 + number for number in (5, 1, 0, 3, 2, 4)])
    batch = launched(made)
    assert batch.items == (2, 1, 4, 3)
    assert batch.padded_shape is None
    assert batch.elements == 120 + 3 + 60 + 8
    assert batch.padding_ratio == 0.0
    assert batch.reason is ReleaseReason.FULL
    assert batch.predicted_s == pytest.approx(seconds(Load.ragged([120, 3, 60, 8])), rel=0.05)


def test_an_item_that_does_not_fit_is_passed_over_for_those_behind_it() -> None:
    made = controller(max_batch_elements=100)
    teach(made)
    offer(made, [60, 50, 30, 20, 10], [9e5 + number for number in range(5)])
    assert launched(made).items == (0, 2, 4)


def test_a_larger_item_than_any_batch_may_be_runs_alone() -> None:
    made = controller(max_batch_elements=100)
    teach(made)
    offer(made, [300, 5], [9e5, 9e5 + 1])
    assert launched(made).items == (0,)


def test_nobody_is_made_late_by_company() -> None:
    made = controller()
    teach(made)
    alone = seconds(Load.ragged([100]))
    offer(made, [100, 5, 250, 4], [2 * alone, 10.0, 10.0, 10.0])
    batch = launched(made)
    assert batch.items == (0, 1, 3)
    assert batch.reason is ReleaseReason.DEADLINE
    assert batch.predicted_upper_s is not None
    assert batch.predicted_upper_s <= 2 * alone


def test_memory_bounds_the_sum_of_the_elements() -> None:
    made = controller(max_batch_size=64)
    teach(made)
    made.observe(MemoryReading(device_free=10**9))
    offer(made, [10] * 8)
    first = launched(made)
    assert len(first.items) == 8
    made.report(Completed(batch_id=first.batch_id, seconds=0.01, peak_bytes=80_000))
    made.observe(MemoryReading(device_free=300_000))
    for number in range(100, 164):
        made.offer(Item(id=ItemId(number), model="m", shape=(10,), arrived=0.0, deadline=1e6), 0.0)
    second = launched(made)
    assert second.reason is ReleaseReason.MEMORY
    assert 1 < len(second.items) < 64
    assert second.predicted_bytes is not None
    assert second.predicted_bytes <= 300_000


def test_out_of_memory_makes_the_next_batch_smaller_and_loses_nobody() -> None:
    made = controller()
    teach(made)
    offer(made, [100] * 20)
    before = launched(made)
    settled = made.report(OutOfMemory(batch_id=before.batch_id, peak_bytes=None))
    assert set(settled.requeued) == set(before.items)
    after = launched(made)
    assert after.elements <= 0.7 * before.elements


def test_an_item_that_fails_alone_is_impossible_and_so_are_larger_ones() -> None:
    made = controller()
    offer(made, [500])
    batch = launched(made)
    assert made.report(OutOfMemory(batch_id=batch.batch_id, peak_bytes=None)).impossible == (0,)
    refused = made.offer(Item(id=ItemId(1), model="m", shape=(600,), arrived=0.0, deadline=1e6), 0.0)
    assert isinstance(refused, Refused)
    assert isinstance(made.offer(Item(id=ItemId(2), model="m", shape=(400,), arrived=0.0, deadline=1e6), 0.0), Admitted)


def test_what_was_learned_of_one_layout_is_not_taken_for_the_other() -> None:
    ragged = controller()
    teach(ragged)
    padded = Controller()
    padded.add_model("m", ModelPolicy())
    with pytest.raises(ValueError, match="learned of ragged batches"):
        padded.load_state_dict("m", ragged.state_dict("m"))
    again = controller()
    again.load_state_dict("m", ragged.state_dict("m"))
    assert again.state_dict("m")["memory"] == ragged.state_dict("m")["memory"]


@given(
    runs=st.lists(st.lists(st.integers(1, 2000), min_size=1, max_size=12), min_size=1, max_size=12),
    asked=st.integers(1, 20000),
)
def test_peaks_that_grow_with_the_sum_are_bounded_by_those_that_were_measured(
    runs: list[list[int]], asked: int
) -> None:
    def peak(elements: int) -> int:
        return 1000 + 8 * elements + max(0, 20 * (elements - 5000))  # convex from a fixed part on

    memory = MemoryModel()
    for lengths in runs:
        ragged_memory.observe(memory, tuple(lengths), peak(sum(lengths)))
    bound = ragged_memory.upper_bytes(memory, asked)
    assert bound is not None
    if asked <= max(sum(lengths) for lengths in runs):
        assert bound >= peak(asked)


@given(
    lengths=st.lists(st.integers(0, 200), min_size=1, max_size=40),
    slacks=st.lists(st.floats(0.01, 5.0), min_size=40, max_size=40),
    max_batch_size=st.integers(1, 16),
    max_elements=st.one_of(st.none(), st.integers(1, 500)),
)
def test_every_admitted_item_runs_once_within_the_limits(
    lengths: list[int], slacks: list[float], max_batch_size: int, max_elements: int | None
) -> None:
    made = controller(max_batch_size=max_batch_size, max_batch_elements=max_elements)
    teach(made)
    waiting = set()
    for number, length in enumerate(lengths):
        item = Item(id=ItemId(number), model="m", shape=(length,), arrived=0.0, deadline=1e3 + slacks[number])
        if isinstance(made.offer(item, 0.0), Admitted):
            waiting.add(number)
    assert waiting
    now = 0.0
    while waiting:
        batch = launched(made, now)
        assert set(batch.items) <= waiting
        assert len(set(batch.items)) == len(batch.items) <= max_batch_size
        assert batch.elements == sum(max(1, lengths[number]) for number in batch.items)
        assert len(batch.items) == 1 or batch.elements <= (max_elements or math.inf)
        made.report(Completed(batch_id=batch.batch_id, seconds=1e-3, peak_bytes=batch.elements * 10))
        waiting -= set(batch.items)
        now += 1e-3
