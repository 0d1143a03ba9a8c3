"""Laws of microbatches: every item once, nothing beyond what fits, and the same gradient whatever the cut."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd.item import Shape, num_elements
from batchd.sampler import DoesNotFitError, plan_microbatches

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=40)
AREAS = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=30)


def within(elements: int) -> Any:
    return lambda shape: elements // num_elements(shape)


@given(sizes=st.one_of(LENGTHS, AREAS), elements=st.integers(1024, 4000), multiple=st.sampled_from([1, 4]))
def test_every_item_runs_once_and_fits(sizes: Any, elements: int, multiple: int) -> None:
    plan = plan_microbatches(sizes, within(elements), multiple=multiple)
    assert sorted(index for microbatch in plan for index in microbatch.indices) == list(range(len(sizes)))
    for microbatch in plan:
        assert len(microbatch.indices) * num_elements(microbatch.padded_shape) <= elements
        for index in microbatch.indices:
            item = np.atleast_1d(sizes[index])
            assert all(have >= need for have, need in zip(microbatch.padded_shape, item, strict=True))
        assert all(have % multiple == 0 for have in microbatch.padded_shape)
    assert plan == plan_microbatches(sizes, within(elements), multiple=multiple)


@given(lengths=LENGTHS, elements=st.integers(60, 1000))
def test_the_largest_run_first_and_like_sizes_together(lengths: list[int], elements: int) -> None:
    plan = plan_microbatches(lengths, within(elements))
    in_turn = [lengths[index] for microbatch in plan for index in microbatch.indices]
    assert in_turn == sorted(lengths, reverse=True)


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=7), elements=st.integers(12, 40))
def test_no_plan_has_fewer_microbatches(lengths: list[int], elements: int) -> None:
    plan = plan_microbatches(lengths, within(elements))
    assert len(plan) == fewest(tuple(sorted(lengths)), elements)


def fewest(lengths: tuple[int, ...], elements: int) -> int:
    """Try every set of items that could run with the longest."""
    if not lengths:
        return 0
    *rest, longest = lengths
    best = len(lengths)
    for chosen in range(2 ** len(rest)):
        left = tuple(length for place, length in enumerate(rest) if not chosen >> place & 1)
        if (len(lengths) - len(left)) * longest <= elements:
            best = min(best, 1 + fewest(left, elements))
    return best


@given(
    lengths=LENGTHS,
    budgets=st.tuples(st.integers(60, 300), st.integers(60, 3000)),
    by_terms=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_the_result_does_not_depend_on_what_the_device_had_free(
    lengths: list[int], budgets: tuple[int, int], by_terms: bool, seed: int
) -> None:
    """The weighted sum of the microbatches' mean gradients is the global batch's mean gradient.

    Each of n sums of non-negative terms below 1 rounds by at most n units in the last place.
    """
    terms = lengths if by_terms else None
    gradients = np.random.default_rng(seed).random(len(lengths))  # of each loss term of an item
    weights = np.array(lengths if by_terms else [1] * len(lengths), dtype=float)
    expected = float((weights * gradients).sum() / weights.sum())
    for budget in budgets:
        plan = plan_microbatches(lengths, within(budget), loss_terms=terms)
        total = 0.0
        for microbatch in plan:
            chosen = list(microbatch.indices)
            total += microbatch.weight * float((weights[chosen] * gradients[chosen]).sum() / weights[chosen].sum())
        assert total == pytest.approx(expected, rel=1e-12)
        assert math.fsum(microbatch.weight for microbatch in plan) == pytest.approx(1.0, rel=1e-12)


def test_a_mean_of_means_would_be_another_loss() -> None:
    """Eight items as 5 and 3: the mean of the two means is not the mean."""
    losses = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.1, 0.1, 0.1])
    plan = plan_microbatches([1] * 8, lambda _: 5)
    means = [float(losses[list(microbatch.indices)].mean()) for microbatch in plan]
    weighted = sum(microbatch.weight * mean for microbatch, mean in zip(plan, means, strict=True))
    assert [len(microbatch.indices) for microbatch in plan] == [5, 3]
    assert weighted == pytest.approx(losses.mean())
    assert abs(float(np.mean(means)) - losses.mean()) > 0.05


def test_an_item_that_does_not_fit_alone_is_named() -> None:
    with pytest.raises(DoesNotFitError, match=r"item 1, padded to \[16\]") as caught:
        plan_microbatches([3, 13, 5], within(10), multiple=8)
    assert (caught.value.index, caught.value.padded_shape) == (1, (16,))


def test_a_wider_common_shape_is_asked_about_before_it_is_used() -> None:
    asked: list[Shape] = []

    def largest(shape: Shape) -> int:
        asked.append(shape)
        return 100 // num_elements(shape)

    plan = plan_microbatches([(10, 2), (2, 10), (10, 2)], largest)
    assert [microbatch.padded_shape for microbatch in plan] == [(10, 2), (2, 10), (10, 2)]
    assert (10, 10) in asked


@pytest.mark.parametrize("terms", [[1], [0, 0], [2, -1]])
def test_loss_terms_that_are_none_are_refused(terms: list[int]) -> None:
    with pytest.raises(ValueError, match="loss_terms"):
        plan_microbatches([3, 4], within(10), loss_terms=terms)
