"""Laws of the buckets that the sampler chooses for a data set, in one dimension and two."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batchd.boundaries import best_buckets
from batchd.sampler.bucketing import MAX_DISTINCT_SIZES, assigned, bucket_shapes, equal_counts, size_counts
from batchd.sampler.example_sizes import IntArray, as_sizes, elements_of
from batchd.sampler.rectangles import CELLS_PER_DIMENSION, merged_rectangles

LENGTHS = st.lists(st.integers(1, 400), min_size=1, max_size=60).map(as_sizes)
AREAS = st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=60).map(as_sizes)


def padded_elements(sizes: IntArray, shapes: IntArray) -> int:
    found = assigned(sizes, shapes)
    return int(elements_of(found.shapes)[found.member].sum())


@given(sizes=st.one_of(LENGTHS, AREAS), num_buckets=st.integers(1, 12))
def test_every_example_fits_its_bucket_and_none_smaller(sizes: IntArray, num_buckets: int) -> None:
    found = assigned(sizes, bucket_shapes(sizes, num_buckets, 4))
    assert 1 <= len(found.shapes) <= num_buckets
    assert set(found.member.tolist()) == set(range(len(found.shapes)))
    for size, bucket in zip(sizes, found.member, strict=True):
        fitting = [index for index, shape in enumerate(found.shapes) if (shape >= size).all()]
        assert elements_of(found.shapes)[bucket] == min(elements_of(found.shapes)[fitting])


@given(sizes=LENGTHS, num_buckets=st.integers(1, 12))
def test_equal_counts_differ_by_one_at_most_and_follow_the_order(sizes: IntArray, num_buckets: int) -> None:
    found = equal_counts(sizes, num_buckets)
    counts = np.bincount(found.member)
    assert counts.max() - counts.min() <= 1
    in_order = found.member[np.argsort(sizes[:, 0], kind="stable")]
    assert (np.diff(in_order) >= 0).all()
    assert (sizes <= found.shapes[found.member]).all()


@given(sizes=AREAS, num_buckets=st.integers(1, 12))
def test_rectangles_never_pad_more_than_one_rectangle(sizes: IntArray, num_buckets: int) -> None:
    one = padded_elements(sizes, merged_rectangles(sizes, 1))
    assert padded_elements(sizes, merged_rectangles(sizes, num_buckets)) <= one
    assert one == len(sizes) * int(np.prod(sizes.max(axis=0)))


@given(sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=9).map(as_sizes))
def test_rectangles_enough_for_every_size_pad_nothing(sizes: IntArray) -> None:
    distinct = len(np.unique(sizes, axis=0))
    assert padded_elements(sizes, merged_rectangles(sizes, distinct)) == int(elements_of(sizes).sum())


def test_rectangles_pad_little_more_than_the_best_ones() -> None:
    """Merging two by two is a heuristic; the best is found by trying every way to put 8 examples into 3 buckets."""
    rng = np.random.default_rng(4)
    excess: list[float] = []
    for _ in range(30):
        sizes = rng.integers(1, 30, size=(8, 2))
        best = min(
            sum(
                len(group) * max(h for h, _ in group) * max(w for _, w in group)
                for number in range(3)
                if (
                    group := [
                        size for size, chosen in zip(sizes.tolist(), (0, *choice), strict=True) if chosen == number
                    ]
                )
            )
            for choice in product(range(3), repeat=7)
        )
        excess.append(padded_elements(as_sizes(sizes), merged_rectangles(as_sizes(sizes), 3)) / best - 1)
    assert min(excess) >= 0
    assert float(np.mean(excess)) < 0.05


def test_very_many_heights_and_widths_are_gathered_and_still_held() -> None:
    sizes = as_sizes(np.random.default_rng(6).lognormal(5, 0.6, (3000, 2)).round() + 1)
    padded = [padded_elements(sizes, merged_rectangles(sizes, number)) for number in (1, 4, 16, 64)]
    assert padded == sorted(padded, reverse=True)
    assert padded[0] > 4 * padded[-1]
    exact = int(elements_of(sizes).sum())
    cells = len(merged_rectangles(sizes, 10**6))
    assert 64 < cells <= CELLS_PER_DIMENSION**2
    assert exact < padded_elements(sizes, merged_rectangles(sizes, cells)) < 1.3 * exact  # cells are 15 % wide and high


def test_very_many_sizes_are_gathered_into_few_that_occur_and_cost_little() -> None:
    sizes = np.unique(np.random.default_rng(5).lognormal(8, 1.5, 20_000).round().astype(np.int64) + 1)
    counts = size_counts(sizes)
    assert len(sizes) > 2 * MAX_DISTINCT_SIZES >= 2 * len(counts)
    assert sum(counts.values()) == len(sizes)
    assert set(counts) <= set(sizes.tolist())
    assert max(counts) == sizes.max()
    for number in (4, 16):
        exact = best_buckets(dict.fromkeys(sizes[::7].tolist(), 1.0), number)
        gathered = best_buckets(size_counts(sizes[::7]), number)
        actual = padded_elements(as_sizes(sizes[::7]), np.array(gathered.edges)[:, None]) - int(sizes[::7].sum())
        assert exact.padding <= actual <= 1.02 * exact.padding
