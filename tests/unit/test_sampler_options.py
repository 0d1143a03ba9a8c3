"""What the sampler refuses, warns of and chooses for itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from batchd.sampler import BucketBatchSampler, ElementBudget, Oversize


@pytest.mark.parametrize(
    ("sizes", "limit", "options"),
    [
        ([], 4, {}),
        ([0, 3], 4, {}),
        ([1.5, 3], 4, {}),
        (["long"], 4, {}),
        ([[1, 2, 3]], 4, {}),
        ([1, 2], 0, {}),
        ([1, 2], 4, {"buckets": 0}),
        ([1, 2], 4, {"buckets": "many"}),
        ([1, 2], 4, {"buckets": [1]}),
        ([[1, 2]], 4, {"buckets": [4]}),
        ([1, 2], 4, {"seed": -1}),
        ([1, 2], 4, {"seed": 2**64}),
        ([1, 2], 4, {"multiple": 0}),
        ([1, 2], 4, {"window": 0}),
        ([1, 2], 4, {"difficulty": [1.0]}),
        ([1, 2], 4, {"difficulty": [1.0, float("nan")]}),
    ],
)
def test_what_makes_no_sense_is_refused(sizes: Any, limit: int, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"size|bucket|edges|seed|multiple|window|difficulty"):
        BucketBatchSampler(sizes, limit, **options)


def test_a_budget_that_covers_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="elements"):
        ElementBudget(elements=0)
    with pytest.raises(ValueError, match="max_items"):
        ElementBudget(elements=10, max_items=0)


def test_an_example_beyond_the_budget_is_alone_with_a_warning_or_refused() -> None:
    sizes = [10, 90, 10, 200, 10]
    with pytest.warns(UserWarning, match="1 of 5 examples exceed the budget of 100 elements"):
        sampler = BucketBatchSampler(sizes, ElementBudget(elements=100), buckets=1)
    assert [3] in list(sampler)
    assert sampler.padded_shape([1]) == (90,)  # the oversize example's bucket is its own
    with pytest.raises(ValueError, match="1 of 5 examples exceed"):
        BucketBatchSampler(sizes, ElementBudget(elements=100, oversize=Oversize.REFUSE))


def test_explicit_edges_are_the_buckets() -> None:
    sampler = BucketBatchSampler([3, 9, 17, 30], 2, buckets=[10, 20, 40], multiple=8)
    assert sampler.bucket_shapes == [(16,), (24,), (40,)]
    assert [sampler.padded_shape([index]) for index in range(4)] == [(16,), (16,), (24,), (40,)]
    assert sampler.padded_shape([0, 3]) == (40,)
    plane = BucketBatchSampler([[3, 9], [9, 3], [9, 9]], 2, buckets=[(4, 16), (16, 4), (16, 16)])
    assert sorted(plane.bucket_shapes) == [(4, 16), (16, 4), (16, 16)]
    assert plane.padded_shape([0, 1]) == (16, 16)


def test_buckets_are_taken_while_they_pay() -> None:
    rng = np.random.default_rng(1)
    alike = BucketBatchSampler(rng.integers(99, 101, size=5000), 16)
    skewed = BucketBatchSampler(np.clip(rng.lognormal(4, 1, 5000), 1, 2000).astype(int), 16)
    few = BucketBatchSampler(np.clip(rng.lognormal(4, 1, 100), 1, 2000).astype(int), 16)
    assert len(alike.bucket_shapes) <= 2
    assert 8 <= len(skewed.bucket_shapes) <= 39  # 313 batches, at least 8 to a bucket
    assert len(few.bucket_shapes) == 1  # 7 batches


@pytest.mark.parametrize("sizes", [[5, 9, 30, 31], [[5, 9], [9, 5], [30, 2]]])
def test_an_iteration_that_was_left_early_begins_again_and_a_finished_one_goes_on(sizes: Any) -> None:
    sampler = BucketBatchSampler(sizes, 1, seed=4)
    peek = next(iter(sampler))
    first = list(sampler)
    assert first[0] == peek
    assert sampler.epoch == 0
    second = list(sampler)
    assert sampler.epoch == 1
    assert sorted(second) == sorted(first)


def test_an_epoch_that_is_named_is_not_run_twice() -> None:
    sampler = BucketBatchSampler(list(range(1, 9)), 3, seed=4)
    list(sampler)
    state = sampler.state_dict()
    resumed = BucketBatchSampler(list(range(1, 9)), 3)
    resumed.load_state_dict(state)
    epochs = []
    for epoch in (0, 1, 2):
        resumed.set_epoch(epoch)
        promised = len(resumed)
        epochs.append(list(resumed))
        assert len(epochs[-1]) == promised
    assert epochs[0] == []
    assert epochs[1:] == [list(sampler), list(sampler)]
    with pytest.raises(ValueError, match="epoch"):
        resumed.set_epoch(-1)


def test_an_abandoned_iteration_does_not_draw_behind_another_s_back() -> None:
    sampler = BucketBatchSampler(list(range(1, 9)), 2)
    old = iter(sampler)
    next(old)
    next(iter(sampler))
    with pytest.raises(RuntimeError, match="another iteration"):
        next(old)


def test_an_allowed_fraction_needs_difficulty_and_a_sensible_value() -> None:
    plain = BucketBatchSampler([1, 2, 3], 2)
    with pytest.raises(ValueError, match="difficulty"):
        plain.allowed_fraction = 0.5
    graded = BucketBatchSampler([1, 2, 3], 2, difficulty=[0.3, 0.1, 0.2])
    assert (graded.allowed_fraction, graded.batch_size) == (1.0, 2)
    for fraction in (0.0, 1.5):
        with pytest.raises(ValueError, match="above 0"):
            graded.allowed_fraction = fraction
    graded.allowed_fraction = 0.5
    assert sorted(graded.draw(9)) == [1, 2]


def test_a_state_of_other_examples_or_no_state_is_refused_and_changes_nothing() -> None:
    sampler = BucketBatchSampler([1, 2, 3, 4], 2, seed=1)
    sampler.next_batch()
    before = sampler.state_dict()
    other = BucketBatchSampler([1, 2, 3, 5], 2, seed=1).state_dict()
    broken = [
        other,
        {},
        {**before, "taken": None},
        {**before, "taken": [4]},
        {**before, "consumed": 5},
        {**before, "epoch": -1},
        {**before, "seed": -1},
        {**before, "allowed_fraction": 0.0},
        {**before, "bucket_shapes": [[1]]},
    ]
    for state in broken:
        with pytest.raises(ValueError, match=r"state|position|seed|bucket"):
            sampler.load_state_dict(state)
    assert sampler.state_dict() == before


def test_more_than_was_drawn_cannot_have_been_used() -> None:
    sampler = BucketBatchSampler([1, 2, 3, 4], 2)
    sampler.next_batch()
    for consumed in (-1, 3):
        with pytest.raises(ValueError, match="consumed"):
            sampler.state_dict(consumed=consumed)
    resumed = BucketBatchSampler([1, 2, 3, 4], 2)
    resumed.load_state_dict(sampler.state_dict())
    with pytest.raises(ValueError, match="between 2 and 2"):
        resumed.state_dict(consumed=1)  # before the position that was loaded


def test_draws_of_nothing_are_refused() -> None:
    sampler = BucketBatchSampler([1, 2], 2)
    with pytest.raises(ValueError, match="at_most"):
        sampler.next_batch(0)
    with pytest.raises(ValueError, match="count"):
        sampler.draw(0)
    with pytest.raises(ValueError, match="empty"):
        sampler.padded_shape([])
