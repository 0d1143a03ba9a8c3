"""Bucket boundaries against brute force, and the laws that they obey."""

import math
from bisect import bisect_left
from itertools import accumulate, combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd.boundaries import best_buckets, enough_buckets, padding_of
from batchd.size_sketch import SizeSketch

COUNTS = st.dictionaries(st.integers(1, 500), st.integers(1, 50).map(float), min_size=1, max_size=9)
MANY = st.dictionaries(st.integers(1, 5000), st.integers(1, 50).map(float), min_size=1, max_size=80)


@given(counts=COUNTS, num_buckets=st.integers(1, 9))
def test_no_other_edges_pad_less(counts: dict[int, float], num_buckets: int) -> None:
    sizes = sorted(counts)
    inner = min(num_buckets, len(sizes)) - 1
    cheapest = min(padding_of((*edges, sizes[-1]), counts).padding for edges in combinations(sizes[:-1], inner))
    found = best_buckets(counts, num_buckets)
    assert found.padding == pytest.approx(cheapest)
    assert padding_of(found.edges, counts).padding == pytest.approx(found.padding)


@given(counts=MANY)
def test_padding_falls_with_every_bucket_and_ever_less(counts: dict[int, float]) -> None:
    paddings = [best_buckets(counts, k).padding for k in range(1, min(12, len(counts)) + 1)]
    gains = [a - b for a, b in pairwise(paddings)]
    assert all(gain >= -1e-6 for gain in gains)
    assert all(a >= b - 1e-6 for a, b in pairwise(gains))


@given(counts=MANY)
def test_a_bucket_for_every_size_pads_nothing(counts: dict[int, float]) -> None:
    found = best_buckets(counts, len(counts) + 3)
    assert found.padding == pytest.approx(0.0)
    assert found.edges == tuple(sorted(counts))


@given(counts=MANY, num_buckets=st.integers(1, 10))
def test_no_usual_rule_pads_less(counts: dict[int, float], num_buckets: int) -> None:
    """Equal counts (fairseq), equal widths, equal ratios, and equal shares of all elements (lhotse)."""
    sizes = sorted(counts)
    low, high = sizes[0], sizes[-1]
    examples = list(accumulate(counts[size] for size in sizes))
    elements = list(accumulate(counts[size] * size for size in sizes))
    shares = [(i + 1) / num_buckets for i in range(num_buckets)]
    rules = {
        "counts": [sizes[bisect_left(examples, share * examples[-1] * (1 - 1e-12))] for share in shares],
        "widths": [math.ceil(high * share) for share in shares],
        "ratios": [math.ceil(low * (high / low) ** share - 1e-9) for share in shares],
        "elements": [sizes[bisect_left(elements, share * elements[-1] * (1 - 1e-12))] for share in shares],
    }
    found = best_buckets(counts, num_buckets).padding
    for edges in rules.values():
        assert padding_of(sorted({*edges, high}), counts).padding >= found - 1e-6


@given(counts=MANY, num_buckets=st.integers(1, 10))
def test_divide_and_conquer_finds_what_the_plain_recursion_finds(counts: dict[int, float], num_buckets: int) -> None:
    sizes = sorted(counts)
    best = [math.inf] * len(sizes) + [0.0]  # of the sizes from here on; no sizes cost nothing
    for _ in range(num_buckets):
        best = [
            min(padding(sizes, counts, start, end) + best[end + 1] for end in range(start, len(sizes)))
            for start in range(len(sizes))
        ] + [0.0]
    assert best_buckets(counts, num_buckets).padding == pytest.approx(best[0])


@given(counts=MANY, data=st.data())
def test_a_bucket_s_padding_obeys_the_quadrangle_inequality(counts: dict[int, float], data: st.DataObject) -> None:
    """Without it the best cut could fall as the edge rises, and divide and conquer would miss it."""
    sizes = sorted(counts)
    places = st.integers(0, len(sizes) - 1)
    a, b, c, d = sorted(data.draw(st.tuples(places, places, places, places)))
    crossed = padding(sizes, counts, a, c) + padding(sizes, counts, b, d)
    nested = padding(sizes, counts, a, d) + padding(sizes, counts, b, c)
    assert crossed <= nested + 1e-6


def padding(sizes: list[int], counts: dict[int, float], first: int, last: int) -> float:
    return sum(counts[size] * (sizes[last] - size) for size in sizes[first : last + 1])


@given(counts=MANY, cost=st.floats(0, 1e5))
def test_the_number_of_buckets_is_the_one_that_pays(counts: dict[int, float], cost: float) -> None:
    found = enough_buckets(counts, cost)
    total = found.padding + cost * len(found.edges)
    for num_buckets in range(1, min(20, len(counts)) + 1):
        other = best_buckets(counts, num_buckets)
        assert total <= other.padding + cost * len(other.edges) + 1e-6


def test_free_buckets_are_all_taken_and_dear_ones_are_not() -> None:
    counts = dict.fromkeys(range(1, 31), 1.0)
    assert len(enough_buckets(counts, 0.0).edges) == 30
    assert enough_buckets(counts, 1e9).edges == (30,)


@pytest.mark.parametrize(
    ("counts", "num_buckets"), [({}, 1), ({0: 1.0}, 1), ({3: -1.0}, 1), ({3: 1.0}, 0), ({3: float("nan")}, 1)]
)
def test_what_cannot_be_put_into_buckets_is_refused(counts: dict[int, float], num_buckets: int) -> None:
    with pytest.raises(ValueError, match=r"sizes|buckets"):
        best_buckets(counts, num_buckets)


def test_a_size_beyond_the_edges_is_refused() -> None:
    with pytest.raises(ValueError, match="beyond the last edge"):
        padding_of((4, 8), {9: 1.0})


@given(sizes=st.lists(st.integers(1, 100_000), min_size=1, max_size=300))
def test_the_sketch_never_rounds_down_and_by_little(sizes: list[int]) -> None:
    sketch = SizeSketch(growth=1.02, half_life=10**9)
    for size in sizes:
        sketch.observe(size)
    counts = sketch.counts()
    assert sum(counts.values()) == pytest.approx(len(sizes), rel=1e-3)
    area, kept = sum(sizes), sum(size * count for size, count in counts.items())
    assert area * 0.999 <= kept <= area * 1.021
    assert max(sizes) <= max(counts) <= max(sizes) * 1.02
    assert len(counts) <= 600


def test_the_sketch_follows_the_traffic() -> None:
    sketch = SizeSketch(half_life=100)
    for _ in range(5000):
        sketch.observe(10)
    for _ in range(300):
        sketch.observe(200)
    counts = sketch.counts()
    old, new = counts[min(counts)], counts[max(counts)]
    assert new / (old + new) == pytest.approx(1 - 0.5**3, abs=0.01)


def test_the_sketch_counts_on_for_ever() -> None:
    sketch = SizeSketch(half_life=10)
    for _ in range(5000):
        sketch.observe(7)
    assert sketch.counts() == {7: pytest.approx(1 / (1 - 0.5**0.1), rel=1e-6)}


@pytest.mark.parametrize("arguments", [{"growth": 1.0}, {"half_life": 0}])
def test_a_sketch_that_could_not_work_is_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="growth"):
        SizeSketch(**arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        SizeSketch().observe(0)
