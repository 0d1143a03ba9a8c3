"""What padding a choice of buckets and batch size costs, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchd.sampler.batch_limit import BatchLimit, capacities, check_limit
from batchd.sampler.bucketing import Bucketing, BucketRule, BucketsWanted, assigned, bucket_shapes, equal_counts
from batchd.sampler.example_sizes import IntArray, as_sizes, elements_of
from batchd.sampler.random_order import check_seed, permutation


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A distribution of padding in percent; the variance in percent squared, of the whole population."""

    mean: float
    lower_quartile: float
    median: float
    upper_quartile: float
    variance: float

    @classmethod
    def of(cls, percents: npt.NDArray[np.float64]) -> Spread:
        """Describe `percents`, of which there is at least one."""
        lower, median, upper = np.quantile(percents, (0.25, 0.5, 0.75)).tolist()
        return cls(
            mean=float(percents.mean()),
            lower_quartile=lower,
            median=median,
            upper_quartile=upper,
            variance=float(percents.var()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddingReport:
    """The padding of one epoch: of an example, the share of its padded elements that carry no data."""

    num_examples: int
    num_batches: int
    num_buckets: int  # that have examples; may be fewer than were wanted
    batch_size: BatchLimit
    per_example: Spread
    per_batch: Spread
    waste_percent: float  # padded elements that carry no data / all elements, over the epoch: what costs time


def padding_report(
    sizes: npt.ArrayLike,
    batch_size: BatchLimit,
    buckets: BucketsWanted = 1,
    *,
    rule: BucketRule = BucketRule.LEAST_PADDING,
    seed: int = 0,
    multiple: int = 1,
    pad_to_bucket: bool = False,
) -> PaddingReport:
    """Report the padding of the batches that a `BucketBatchSampler` makes of `sizes` in epoch 0.

    Examples are shuffled and cut into batches bucket by bucket; the last batch of a bucket may be smaller and counts as
    a batch. Batches are padded to their longest example (in two dimensions, highest and widest), rounded up to
    `multiple`, or to the shape of their bucket.

    Raises:
        ValueError: as `BucketBatchSampler`, or equal counts without a number of buckets.
    """
    check_limit(batch_size)
    check_seed(seed)
    given, rounded = as_sizes(sizes), as_sizes(sizes, multiple=multiple)
    bucketing = _bucketing(rounded, batch_size, buckets, rule, multiple)
    order, starts = _batches(bucketing, batch_size, seed)
    if pad_to_bucket:
        padded = bucketing.shapes[bucketing.member[order[starts]]]
    else:
        padded = np.maximum.reduceat(rounded[order], starts, axis=0)
    lengths = np.diff(starts, append=len(order))
    data = elements_of(given[order])
    elements = elements_of(padded)
    per_example = 100.0 * (1.0 - data / np.repeat(elements, lengths))
    per_batch = 100.0 * (1.0 - np.add.reduceat(data, starts) / (elements * lengths))
    return PaddingReport(
        num_examples=len(given),
        num_batches=len(starts),
        num_buckets=len(bucketing.shapes),
        batch_size=batch_size,
        per_example=Spread.of(per_example),
        per_batch=Spread.of(per_batch),
        waste_percent=100.0 * (1.0 - float(data.sum()) / float((elements * lengths).sum())),
    )


def padding_table(
    sizes: npt.ArrayLike,
    batch_sizes: Sequence[BatchLimit],
    bucket_numbers: Sequence[int],
    *,
    rule: BucketRule = BucketRule.LEAST_PADDING,
    seed: int = 0,
    multiple: int = 1,
    pad_to_bucket: bool = False,
) -> list[list[PaddingReport]]:
    """Return one row of reports per number of buckets, with one report per batch size.

    Raises:
        ValueError: as `padding_report`.
    """
    return [
        [
            padding_report(sizes, limit, number, rule=rule, seed=seed, multiple=multiple, pad_to_bucket=pad_to_bucket)
            for limit in batch_sizes
        ]
        for number in bucket_numbers
    ]


def _bucketing(
    sizes: IntArray, limit: BatchLimit, buckets: BucketsWanted, rule: BucketRule, multiple: int
) -> Bucketing:
    if rule is BucketRule.LEAST_PADDING:
        return assigned(sizes, bucket_shapes(sizes, buckets, limit, multiple=multiple))
    if not isinstance(buckets, int):
        raise ValueError("buckets of equal counts need their number")
    return equal_counts(sizes, buckets)


def _batches(bucketing: Bucketing, limit: BatchLimit, seed: int) -> tuple[IntArray, IntArray]:
    """Return all examples batch after batch, (examples,), and where each batch begins, (batches,)."""
    shuffled = permutation(len(bucketing.member), seed, 0)
    order = shuffled[np.argsort(bucketing.member[shuffled], kind="stable")]
    bucket = bucketing.member[order]
    first = np.searchsorted(bucket, bucket)  # where the example's bucket begins
    place = np.arange(len(order)) - first
    return order, np.flatnonzero(place % capacities(limit, bucketing.shapes)[bucket] == 0).astype(np.int64)
