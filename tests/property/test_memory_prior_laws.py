"""What a prior promises: it sizes the first batch, and no error in it outlives the first measured one."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import assume, given
from hypothesis import strategies as st

from batchd import MemoryModel

Peak = Callable[[int, int], int]

SIZES = st.lists(st.integers(1, 400), min_size=1, max_size=6, unique=True)
BATCHES = st.lists(st.integers(1, 64), min_size=1, max_size=3, unique=True)
CELLS = st.lists(st.tuples(st.integers(1, 64), st.integers(1, 800)), max_size=4)


@st.composite
def peaks(draw: st.DrawFn) -> Peak:
    """Peaks of the class that the memory model bounds: convex in the batch size, at most squares in the elements."""
    parts = draw(
        st.lists(
            st.tuples(st.integers(0, 10**6), st.integers(0, 2000), st.integers(0, 50)), min_size=1, max_size=4
        ).filter(lambda parts: any(any(part) for part in parts))
    )
    return lambda b, e: max(1, *(fixed + b * (linear * e + square * e * e) for fixed, linear, square in parts))


def informed(peak: Peak, sizes: list[int], batches: list[int], scale: float = 1.0) -> MemoryModel:
    model = MemoryModel()
    for elements in sizes:
        for batch_size in batches:
            model.foresee(batch_size, elements, max(1, round(scale * peak(batch_size, elements))))
    return model


@given(peaks(), SIZES, BATCHES, CELLS, st.floats(1.0, 3.0), st.integers(1, 800), st.floats(0.01, 100.0))
def test_with_an_exact_or_pessimistic_prior_no_batch_is_over_the_headroom(
    peak: Peak,
    sizes: list[int],
    batches: list[int],
    run: list[tuple[int, int]],
    scale: float,
    elements: int,
    room: float,
) -> None:
    model = informed(peak, sizes, batches, scale)
    headroom = max(int(room * peak(8, elements)), peak(1, elements))
    for cell in [None, *run]:
        if cell is not None:
            model.observe(*cell, peak(*cell))
        assert peak(model.max_batch_size(elements, headroom, 64), elements) <= headroom


@given(peaks(), SIZES, BATCHES, CELLS, st.floats(1 / 1.15, 1.0), st.integers(1, 800), st.floats(0.01, 100.0))
def test_a_prior_that_is_too_low_by_the_guess_is_harmless(
    peak: Peak,
    sizes: list[int],
    batches: list[int],
    run: list[tuple[int, int]],
    scale: float,
    elements: int,
    room: float,
) -> None:
    model = informed(lambda b, e: 1000 * peak(b, e), sizes, batches, scale)  # so that rounding is small
    headroom = 1000 * max(int(room * peak(8, elements)), peak(1, elements))
    for cell in [None, *run]:
        if cell is not None:
            model.observe(*cell, 1000 * peak(*cell))
        assert 1000 * peak(model.max_batch_size(elements, headroom, 64), elements) <= headroom * 1.0001


@given(peaks(), SIZES, BATCHES, st.data(), st.integers(1, 800), st.floats(0.01, 100.0))
def test_a_prior_of_half_the_truth_is_put_right_by_one_measured_batch(
    peak: Peak, sizes: list[int], batches: list[int], data: st.DataObject, elements: int, room: float
) -> None:
    model = informed(lambda b, e: 1000 * peak(b, e), sizes, batches, scale=0.5)
    ran = data.draw(st.sampled_from(batches)), data.draw(st.sampled_from(sizes))
    model.observe(*ran, 1000 * peak(*ran))
    headroom = 1000 * max(int(room * peak(8, elements)), peak(1, elements))
    assert 1000 * peak(model.max_batch_size(elements, headroom, 64), elements) <= headroom * 1.0001


@given(peaks(), SIZES, BATCHES, CELLS.map(lambda cells: cells[:3]), st.integers(1, 63), st.integers(1, 799))
def test_bounds_grow_with_the_batch_and_with_the_items(
    peak: Peak, sizes: list[int], batches: list[int], run: list[tuple[int, int]], batch_size: int, elements: int
) -> None:
    model = informed(peak, sizes, batches)
    for cell in run:
        model.observe(*cell, peak(*cell))
    bounds = [
        model.upper_bytes(*cell)
        for cell in ((batch_size, elements), (batch_size + 1, elements), (batch_size, elements + 1))
    ]
    here, more, longer = (bound if bound is not None else -1 for bound in bounds)
    assert peak(batch_size, elements) - 1 <= here <= more, "a bound is a whole number of bytes"
    assert here <= longer


@given(peaks(), SIZES, BATCHES, CELLS, st.integers(1, 800), st.integers(1, 10**9), st.integers(1, 64))
def test_the_search_finds_the_largest_batch_that_fits(
    peak: Peak,
    sizes: list[int],
    batches: list[int],
    run: list[tuple[int, int]],
    elements: int,
    headroom: int,
    at_most: int,
) -> None:
    model = informed(peak, sizes, batches)
    for cell in run:
        model.observe(*cell, peak(*cell))
    fitting = [size for size in range(1, at_most + 1) if (model.upper_bytes(size, elements) or 0) <= headroom]
    assert model.max_batch_size(elements, headroom, at_most) == max(fitting, default=1)


@given(peaks(), SIZES, BATCHES, st.integers(2, 64), st.integers(1, 400), st.integers(10**3, 10**12))
def test_an_error_wins_over_any_prior(
    peak: Peak, sizes: list[int], batches: list[int], batch_size: int, elements: int, headroom: int
) -> None:
    model = informed(peak, sizes, batches)
    assume(model.max_batch_size(elements, headroom, 64) >= batch_size)
    model.observe_out_of_memory(batch_size, elements, headroom)
    assert model.max_batch_size(elements, headroom, 64) < batch_size
    assert model.max_batch_size(elements + 1, headroom, 64) < batch_size
