"""Bucket boundaries that waste least: exact, by dynamic programming over the sizes that occur.

Padding every item of a bucket to the bucket's edge wastes `sum of edge - size`. With sizes v_1 < ... < v_m and prefix
sums C of their counts, the waste of k buckets is least where `sum of v_edge * (C_edge - C_previous edge)` is. The cost
of a bucket obeys the quadrangle inequality, so the best previous edge never falls as the edge rises, and each layer is
solved by divide and conquer: O(k m log m).

Source: F. Yao, Efficient dynamic programming using quadrangle inequalities, STOC 1980. Equal counts or equal widths,
the usual choices, waste two to five times as much on skewed sizes.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Buckets:
    """Edges and what they cost: `padding` is in elements over all items that the counts stand for."""

    edges: tuple[int, ...]
    padding: float
    data: float

    @property
    def padding_ratio(self) -> float:
        """Padded elements that carry no data over all elements."""
        total = self.padding + self.data
        return self.padding / total if total > 0 else 0.0


def best_buckets(counts: Mapping[int, float], num_buckets: int) -> Buckets:
    """Return the edges of at most `num_buckets` buckets that pad the items of `counts` (by size) least.

    The last edge is the largest size. Fewer buckets are returned where there are fewer sizes.

    Raises:
        ValueError: no counts, a size below 1, a count that is negative, or no bucket.
    """
    return _layers(_sorted_sizes(counts), num_buckets)[-1]


def enough_buckets(counts: Mapping[int, float], cost_per_bucket: float, *, at_most: int = 64) -> Buckets:
    """Return the buckets whose padding and own cost, `cost_per_bucket` elements each, come to the least together.

    A bucket costs what one more shape costs: a compiled graph, a slower fill, a partial batch. The padding is convex in
    the number of buckets, so the sum has one valley.

    Raises:
        ValueError: as `best_buckets`, or a negative cost.
    """
    if cost_per_bucket < 0:
        raise ValueError(f"cost_per_bucket must not be negative, got {cost_per_bucket}")
    layers = _layers(_sorted_sizes(counts), at_most)
    return min(layers, key=lambda buckets: buckets.padding + cost_per_bucket * len(buckets.edges))


def padding_of(edges: Sequence[int], counts: Mapping[int, float]) -> Buckets:
    """Return what given edges cost.

    Raises:
        ValueError: a size lies beyond the last edge.
    """
    sizes = _sorted_sizes(counts)
    if sizes[-1][0] > edges[-1]:
        raise ValueError(f"size {sizes[-1][0]} lies beyond the last edge, {edges[-1]}")
    padding = sum(count * (edges[bisect_left(edges, size)] - size) for size, count in sizes)
    return Buckets(tuple(edges), padding, sum(count * size for size, count in sizes))


def _sorted_sizes(counts: Mapping[int, float]) -> list[tuple[int, float]]:
    sizes = sorted((size, count) for size, count in counts.items() if count != 0)
    if not sizes:
        raise ValueError("there are no sizes to put into buckets")
    if sizes[0][0] < 1 or any(count < 0 or not math.isfinite(count) for _, count in sizes):
        raise ValueError("sizes must be at least 1 and counts not negative")
    return sizes


def _layers(sizes: list[tuple[int, float]], num_buckets: int) -> list[Buckets]:
    """Return the best buckets for 1, 2, ... up to `num_buckets` buckets, or as many as there are sizes."""
    if num_buckets < 1:
        raise ValueError(f"the number of buckets must be at least 1, got {num_buckets}")
    values = [size for size, _ in sizes]
    cumulated = [0.0]
    for _, count in sizes:
        cumulated.append(cumulated[-1] + count)
    data = sum(size * count for size, count in sizes)
    num_sizes = len(values)
    # Padded elements of the first j sizes with one bucket; index 0 stands for no sizes.
    best = [0.0] + [values[j - 1] * cumulated[j] for j in range(1, num_sizes + 1)]
    cuts: list[list[int]] = [[0] * (num_sizes + 1)]
    layers = [Buckets((values[-1],), best[-1] - data, data)]
    for _ in range(1, min(num_buckets, num_sizes)):
        best, cut = _next_layer(best, values, cumulated)
        cuts.append(cut)
        layers.append(Buckets(_edges(values, cuts), max(0.0, best[-1] - data), data))
    return layers


def _next_layer(previous: list[float], values: list[int], cumulated: list[float]) -> tuple[list[float], list[int]]:
    """Add one bucket: best[j] = min over i < j of previous[i] + values[j - 1] * (cumulated[j] - cumulated[i])."""
    num_sizes = len(values)
    best = [0.0] + [math.inf] * num_sizes
    cut = [0] * (num_sizes + 1)
    pending = [(1, num_sizes, 0, num_sizes - 1)]  # ends low..high, whose best cut lies in first..last
    while pending:
        low, high, first, last = pending.pop()
        if low > high:
            continue
        middle = (low + high) // 2
        edge, upto = values[middle - 1], cumulated[middle]
        for i in range(first, min(last, middle - 1) + 1):
            total = previous[i] + edge * (upto - cumulated[i])
            if total < best[middle]:
                best[middle], cut[middle] = total, i
        pending.append((low, middle - 1, first, cut[middle]))
        pending.append((middle + 1, high, cut[middle], last))
    return best, cut


def _edges(values: list[int], cuts: list[list[int]]) -> tuple[int, ...]:
    edges: list[int] = []
    end = len(values)
    for cut in reversed(cuts):
        if end == 0:
            break
        edges.append(values[end - 1])
        end = cut[end]
    return tuple(reversed(edges))
