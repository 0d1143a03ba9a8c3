"""The padding report against closed forms, a published table and the batches that the sampler really makes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from batchd.sampler import (
    BatchLimit,
    BucketBatchSampler,
    BucketRule,
    ElementBudget,
    PaddingReport,
    Spread,
    padding_report,
    padding_table,
)

BATCH_SIZES = (16, 32, 64)
PUBLISHED_MEANS = {  # percent, to one decimal, of some 5,008 images; the last row has as many buckets as batches
    (1, 1, 1): (56.6, 66.5, 74.7),
    (10, 10, 10): (19.8, 21.9, 23.3),
    (50, 50, 50): (5.9, 6.6, 7.1),
    (313, 156, 78): (1.5, 2.7, 5.3),
}


def image_widths() -> list[int]:
    """Return 5,008 widths of a law that was fitted to the published means; those images are not at hand."""
    count = 5008
    uniform, normal, choice = (np.random.default_rng(seed) for seed in (3, 4, 5))
    tail = 34.6 * np.exp(2.236 * normal.standard_normal(count))
    share = 1 - (1 - uniform.random(count)) ** (1 / 2.972)
    body = 400 * (0.00934 + (1 - 0.00934) * share**0.6287)
    widths = np.where(choice.random(count) < 0.1130, tail, body)
    return np.maximum(1, np.round(widths)).astype(int).tolist()


@pytest.fixture(scope="module")
def published_grid() -> list[list[PaddingReport]]:
    widths = image_widths()
    return [
        [
            padding_report(widths, size, number, rule=BucketRule.EQUAL_COUNT, seed=0)
            for size, number in zip(BATCH_SIZES, numbers, strict=True)
        ]
        for numbers in PUBLISHED_MEANS
    ]


def test_uniform_sizes_in_one_bucket_pad_as_the_closed_form_says() -> None:
    """Of B sizes uniform on (0, 1], the mean is 1/2 and E[x / max] = (B + 1) / (2 B); so (B - 1) / (2 B) is padding.

    Batches are independent, so their mean has the standard error sqrt(variance / batches); five of those are allowed.
    """
    sizes = np.random.default_rng(1).integers(1, 10**9, size=400_000, endpoint=True)
    for batch_size in (4, 16, 64):
        report = padding_report(sizes, batch_size, 1, seed=2)
        expected = 100 * (batch_size - 1) / (2 * batch_size)
        standard_error = np.sqrt(report.per_batch.variance / report.num_batches)
        assert standard_error < 0.1
        assert report.per_batch.mean == pytest.approx(expected, abs=5 * standard_error)
        assert report.per_example.mean == pytest.approx(report.per_batch.mean)  # no partial batch


def test_the_published_means_come_out(published_grid: list[list[PaddingReport]]) -> None:
    """Within 5 % of a value that rounds to the published one."""
    for published, reports in zip(PUBLISHED_MEANS.values(), published_grid, strict=True):
        for mean, report in zip(published, reports, strict=True):
            assert 0.95 * (mean - 0.05) <= report.per_example.mean <= 1.05 * (mean + 0.05)


def test_the_published_table_s_shape_comes_out(published_grid: list[list[PaddingReport]]) -> None:
    means = [[report.per_example.mean for report in row] for row in published_grid]
    for row in means:
        assert all(fewer < more for fewer, more in pairwise(row))  # larger batches pad more
    for column in zip(*means, strict=True):
        assert all(fewer > more for fewer, more in pairwise(column))  # more buckets pad less
    for report in published_grid[0]:
        assert report.per_example.mean < report.per_example.median
    for report in (report for row in published_grid[1:] for report in row):
        assert report.per_example.mean > report.per_example.median


def test_boundaries_that_pad_least_waste_less_than_equal_counts() -> None:
    widths = image_widths()
    for number in (4, 10, 32):
        best, equal = (
            padding_report(widths, 16, number, rule=rule, pad_to_bucket=True).waste_percent for rule in BucketRule
        )
        assert best < 0.8 * equal


@pytest.mark.parametrize("limit", [7, ElementBudget(elements=2500, max_items=20)])
@pytest.mark.parametrize("dimensions", [1, 2])
def test_the_report_is_of_the_batches_that_the_sampler_makes(limit: BatchLimit, dimensions: int) -> None:
    sizes: Any = np.random.default_rng(3).integers(1, 45, size=(300, dimensions)).squeeze()
    data = np.reshape(sizes, (300, -1))
    batches = list(BucketBatchSampler(sizes, limit, buckets=5, seed=9, multiple=4))
    report = padding_report(sizes, limit, 5, seed=9, multiple=4)
    waste, per_example, padded_total = [], [], 0
    for batch in batches:
        padded = int(np.prod(-(-data[batch].max(axis=0) // 4) * 4))
        own = data[batch].prod(axis=1)
        waste.append(100 * (1 - own.sum() / (padded * len(batch))))
        per_example += (100 * (1 - own / padded)).tolist()
        padded_total += padded * len(batch)
    assert report.num_batches == len(batches)
    assert report.num_examples == 300
    described = {
        "mean": np.mean,
        "median": np.median,
        "variance": np.var,
        "lower_quartile": lambda values: np.quantile(values, 0.25),
        "upper_quartile": lambda values: np.quantile(values, 0.75),
    }
    for name, compute in described.items():
        assert getattr(report.per_batch, name) == pytest.approx(compute(waste))
        assert getattr(report.per_example, name) == pytest.approx(compute(per_example))
    assert report.waste_percent == pytest.approx(100 * (1 - data.prod(axis=1).sum() / padded_total))


def test_padding_to_the_bucket_costs_at_least_as_much() -> None:
    widths = image_widths()
    longest, bucket = (padding_report(widths, 16, 8, pad_to_bucket=wanted) for wanted in (False, True))
    assert longest.waste_percent < bucket.waste_percent
    assert longest.num_batches == bucket.num_batches


def test_the_table_has_a_row_per_number_of_buckets() -> None:
    sizes = list(range(1, 200))
    table = padding_table(sizes, (4, 8), (1, 3, 9), seed=5)
    assert [[(report.num_buckets, report.batch_size) for report in row] for row in table] == [
        [(number, size) for size in (4, 8)] for number in (1, 3, 9)
    ]
    assert table[1][0] == padding_report(sizes, 4, 3, seed=5)


def test_equal_sizes_pad_nothing() -> None:
    report = padding_report([12] * 10, 4, 3)
    nothing = Spread(mean=0.0, lower_quartile=0.0, median=0.0, upper_quartile=0.0, variance=0.0)
    assert (report.per_example, report.per_batch, report.waste_percent) == (nothing, nothing, 0.0)
    assert (report.num_batches, report.num_buckets) == (3, 1)


def test_equal_counts_need_a_number() -> None:
    with pytest.raises(ValueError, match="number"):
        padding_report([1, 2, 3], 2, "auto", rule=BucketRule.EQUAL_COUNT)
