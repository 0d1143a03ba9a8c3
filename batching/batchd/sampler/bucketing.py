"""Which bucket every example of a data set belongs to, and the padded shapes of the buckets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias

import numpy as np

from batchd.boundaries import best_buckets, enough_buckets
from batchd.sampler.batch_limit import BatchLimit, ElementBudget
from batchd.sampler.example_sizes import IntArray, as_sizes, elements_of
from batchd.sampler.rectangles import merged_rectangles

MAX_DISTINCT_SIZES = 1024
"""Above this, sizes share the cells of a logarithmic grid while edges are computed; each cell stands at its largest."""

MAX_AUTO_BUCKETS = 64
MIN_BATCHES_PER_BUCKET = 8
"""With fewer, the same examples would meet in the same batches every epoch."""

BucketsWanted: TypeAlias = int | Literal["auto"] | Sequence[int] | Sequence[tuple[int, int]]
"""At most so many, as many as pay, or these edges or (height, width) pairs."""


class BucketRule(StrEnum):
    """Where the boundaries between buckets lie."""

    LEAST_PADDING = "least-padding"
    EQUAL_COUNT = "equal-count"


@dataclass(frozen=True, slots=True, eq=False)
class Bucketing:
    """`shapes` is (buckets, dimensions): what a batch of the bucket is padded to at most; `member` is (examples,)."""

    shapes: IntArray
    member: IntArray


def assigned(sizes: IntArray, shapes: IntArray) -> Bucketing:
    """Put every example of (examples, dimensions) into the bucket of fewest elements that holds it.

    Buckets come out in the order of their elements; those without examples are left out.

    Raises:
        ValueError: an example fits in no bucket.
    """
    ordered = shapes[np.argsort(elements_of(shapes), kind="stable")]
    member = np.full(len(sizes), -1, dtype=np.int64)
    for bucket, shape in enumerate(ordered):
        member[(member < 0) & (sizes <= shape).all(axis=1)] = bucket
    if (member < 0).any():
        misfit = sizes[int(np.argmin(member))].tolist()
        raise ValueError(f"an example of size {misfit} fits in no bucket")
    used, member = np.unique(member, return_inverse=True)
    return Bucketing(ordered[used], member.reshape(-1).astype(np.int64))


def equal_counts(sizes: IntArray, num_buckets: int) -> Bucketing:
    """Cut the examples, sorted by their elements, into buckets of equally many, one more or less.

    Raises:
        ValueError: no bucket.
    """
    _check_number(num_buckets)
    order = np.argsort(elements_of(sizes), kind="stable")
    groups = [group for group in np.array_split(order, num_buckets) if len(group)]
    member = np.empty(len(sizes), dtype=np.int64)
    for bucket, group in enumerate(groups):
        member[group] = bucket
    return Bucketing(np.stack([sizes[group].max(axis=0) for group in groups]), member)


def bucket_shapes(sizes: IntArray, wanted: BucketsWanted, limit: BatchLimit, *, multiple: int = 1) -> IntArray:
    """Return the padded shapes, (buckets, dimensions), of the buckets that pad `sizes` least.

    Under an element budget, examples beyond it share a bucket of their own, one more than wanted, so that in one
    dimension no example within the budget is padded to a shape beyond it; in two, buckets are not merged beyond it.

    `"auto"` takes buckets while each saves more padding in an epoch than one average batch has elements (what a partial
    batch or a shape compiled anew costs), and leaves at least `MIN_BATCHES_PER_BUCKET` batches to a bucket.

    Raises:
        ValueError: no bucket, or given edges that are no sizes or not of the sizes' dimensions.
    """
    if not isinstance(wanted, int | str):
        edges = as_sizes(wanted, multiple=multiple)
        if edges.shape[1] != sizes.shape[1]:
            raise ValueError(f"edges have {edges.shape[1]} dimensions and sizes {sizes.shape[1]}")
        return edges
    if isinstance(wanted, str) and wanted != "auto":
        raise ValueError(f"buckets must be a number, 'auto' or edges, got {wanted!r}")
    elements = elements_of(sizes)
    within = elements <= limit.elements if isinstance(limit, ElementBudget) else np.ones(len(sizes), dtype=np.bool_)
    parts: list[IntArray] = []
    if within.any():
        parts.append(_least_padding(sizes[within], wanted, limit))
    if not within.all():
        parts.append(sizes[~within].max(axis=0)[None, :])
    return np.concatenate(parts)


def _least_padding(sizes: IntArray, wanted: int | Literal["auto"], limit: BatchLimit) -> IntArray:
    if wanted == "auto":
        at_most, cost = _auto(sizes, limit)
    else:
        _check_number(wanted)
        at_most, cost = wanted, 0.0
    if sizes.shape[1] == 2:
        most = limit.elements if isinstance(limit, ElementBudget) else np.inf
        return merged_rectangles(sizes, at_most, cost, most)
    counts = size_counts(sizes[:, 0])
    buckets = enough_buckets(counts, cost, at_most=at_most) if cost else best_buckets(counts, at_most)
    return np.array(buckets.edges, dtype=np.int64)[:, None]


def _auto(sizes: IntArray, limit: BatchLimit) -> tuple[int, float]:
    """Return the most buckets, and what one costs in elements."""
    data = float(elements_of(sizes).sum())
    if isinstance(limit, int):
        num_batches = -(-len(sizes) // limit)
    else:
        num_batches = max(-(-int(data) // limit.elements), -(-len(sizes) // (limit.max_items or len(sizes))))
    return max(1, min(MAX_AUTO_BUCKETS, num_batches // MIN_BATCHES_PER_BUCKET)), data / num_batches


def size_counts(sizes: IntArray) -> dict[int, float]:
    """Return how many examples there are of each size of (examples,), on a grid where the sizes are very many."""
    distinct, counts = np.unique(sizes, return_counts=True)
    if len(distinct) > MAX_DISTINCT_SIZES:
        low, high = np.log(distinct[0]), np.log(distinct[-1])
        cell = np.ceil((np.log(distinct) - low) / (high - low) * (MAX_DISTINCT_SIZES - 1)).astype(np.int64)
        last = np.flatnonzero(np.diff(cell, append=cell[-1] + 1))  # of every cell: edges are sizes that occur
        cumulated = np.cumsum(counts)[last]
        distinct, counts = distinct[last], np.diff(cumulated, prepend=0)
    return {int(size): float(count) for size, count in zip(distinct, counts, strict=True)}


def _check_number(num_buckets: int) -> None:
    if num_buckets < 1:
        raise ValueError(f"the number of buckets must be at least 1, got {num_buckets}")
