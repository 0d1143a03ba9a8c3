"""Laws of the training sampler: every example once, budgets kept, the same stream everywhere, resumable anywhere."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd.sampler import BatchLimit, BucketBatchSampler, ElementBudget

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=80)
AREAS = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=60)
SIZES = st.one_of(LENGTHS, AREAS)
BUDGETS = st.builds(
    ElementBudget, elements=st.integers(3600, 9000), max_items=st.one_of(st.none(), st.integers(1, 9))
)  # no example is larger
LIMITS = st.one_of(st.integers(1, 12), BUDGETS)
BUCKETS = st.one_of(st.just("auto"), st.integers(1, 9))
OPTIONS = st.fixed_dictionaries(
    {
        "buckets": BUCKETS,
        "seed": st.integers(0, 2**64 - 1),
        "window": st.one_of(st.none(), st.integers(1, 100)),
        "multiple": st.sampled_from([1, 4]),
    }
)


def drain(sampler: BucketBatchSampler) -> list[list[int]]:
    batches: list[list[int]] = []
    while batch := sampler.next_batch():
        batches.append(batch)
    return batches


def flat(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


@given(sizes=SIZES, limit=LIMITS, options=OPTIONS)
def test_every_example_comes_once_in_every_epoch(sizes: Any, limit: BatchLimit, options: dict[str, Any]) -> None:
    sampler = BucketBatchSampler(sizes, limit, **options)
    for epoch in range(3):
        promised = len(sampler)
        batches = list(sampler)
        assert sampler.epoch == epoch
        assert Counter(flat(batches)) == Counter(range(len(sizes)))
        assert len(batches) == promised
        assert all(batches)


@given(sizes=SIZES, size=st.integers(1, 12), options=OPTIONS)
def test_a_batch_is_of_one_bucket_and_never_larger_than_asked(sizes: Any, size: int, options: dict[str, Any]) -> None:
    sampler = BucketBatchSampler(sizes, size, **options)
    bucket_of = {index: sampler.padded_shape([index]) for index in range(len(sizes))}
    partial: Counter[Any] = Counter()
    for batch in drain(sampler):
        assert len(batch) <= size
        assert len({bucket_of[index] for index in batch}) == 1
        partial[bucket_of[batch[0]]] += len(batch) < size
    assert all(count <= 1 for count in partial.values())  # only the last of a bucket


@given(
    sizes=SIZES,
    elements=st.integers(1, 5000),
    max_items=st.one_of(st.none(), st.integers(1, 9)),
    options=OPTIONS,
)
@pytest.mark.filterwarnings("ignore:.*exceed the budget")
def test_the_element_budget_holds_padding_included_but_for_lone_examples(
    sizes: Any, elements: int, max_items: int | None, options: dict[str, Any]
) -> None:
    sampler = BucketBatchSampler(sizes, ElementBudget(elements=elements, max_items=max_items), **options)
    step = options["multiple"]
    own = [int(np.prod([-(-d // step) * step for d in np.atleast_1d(size)])) for size in sizes]
    for batch in drain(sampler):
        padded = int(np.prod(sampler.padded_shape(batch))) * len(batch)
        assert padded <= elements or len(batch) == 1
        assert padded <= elements or own[batch[0]] > elements or len(np.shape(sizes)) == 2
        assert max_items is None or len(batch) <= max_items


@given(sizes=SIZES, limit=LIMITS, options=OPTIONS)
def test_the_same_seed_gives_the_same_stream(sizes: Any, limit: BatchLimit, options: dict[str, Any]) -> None:
    one, other = (BucketBatchSampler(sizes, limit, **options) for _ in range(2))
    assert [list(one) for _ in range(2)] == [list(other) for _ in range(2)]


def test_other_seeds_and_other_epochs_give_other_streams() -> None:
    sizes = list(range(1, 101))
    streams = [list(BucketBatchSampler(sizes, 8, buckets=4, seed=seed)) for seed in range(5)]
    sampler = BucketBatchSampler(sizes, 8, buckets=4, seed=0)
    streams += [list(sampler) for _ in range(3)][1:]
    assert len({json.dumps(stream) for stream in streams}) == len(streams)


def test_another_process_draws_the_same_stream() -> None:
    program = (
        "from batchd.sampler import BucketBatchSampler; import json;"
        "print(json.dumps(list(BucketBatchSampler(list(range(1, 60)), 7, buckets=3, seed=11))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "123"}
    )
    assert json.loads(done.stdout) == list(BucketBatchSampler(list(range(1, 60)), 7, buckets=3, seed=11))


def test_the_stream_is_the_one_that_was_written_down() -> None:
    """A saved position must mean the same after an upgrade, of batchd or of numpy."""
    sampler = BucketBatchSampler([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8], 3, buckets=2, seed=42)
    assert list(sampler) == PINNED_STREAM


@given(sizes=SIZES, limit=LIMITS, options=OPTIONS, data=st.data())
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(
    sizes: Any, limit: BatchLimit, options: dict[str, Any], data: st.DataObject
) -> None:
    whole = list(BucketBatchSampler(sizes, limit, **options))
    killed_after = data.draw(st.integers(0, len(whole)))
    first = BucketBatchSampler(sizes, limit, **options)
    for _ in range(killed_after):
        first.next_batch()
    state = json.loads(json.dumps(first.state_dict()))
    resumed = BucketBatchSampler(sizes, limit, **{**options, "seed": 0, "buckets": 1})
    resumed.load_state_dict(state)
    assert len(resumed) == len(whole) - killed_after or killed_after == len(whole)
    assert drain(resumed) == whole[killed_after:]
    second = BucketBatchSampler(sizes, limit, **options)
    second.set_epoch(1)
    resumed.set_epoch(1)
    assert drain(resumed) == drain(second)


@given(sizes=SIZES, limit=LIMITS, other=LIMITS, options=OPTIONS, data=st.data())
def test_what_was_prefetched_but_not_used_comes_again_and_nothing_else_does(
    sizes: Any, limit: BatchLimit, other: BatchLimit, options: dict[str, Any], data: st.DataObject
) -> None:
    """Killed at any example, in the middle of a batch too, and resumed with another batch size."""
    sampler = BucketBatchSampler(sizes, limit, **options)
    prefetching = iter(sampler)
    ahead = flat([batch for _, batch in zip(range(data.draw(st.integers(0, 30))), prefetching, strict=False)])
    used = data.draw(st.integers(0, len(ahead)))
    state = sampler.state_dict(consumed=used)
    assert state["consumed"] == used
    resumed = BucketBatchSampler(sizes, other, **options)
    resumed.load_state_dict(state)
    assert resumed.remaining == len(sizes) - used
    assert Counter(ahead[:used] + flat(drain(resumed))) == Counter(range(len(sizes)))


@given(sizes=SIZES, limit=LIMITS, options=OPTIONS, data=st.data())
def test_a_position_between_two_prefetched_batches_is_exact(
    sizes: Any, limit: BatchLimit, options: dict[str, Any], data: st.DataObject
) -> None:
    whole = list(BucketBatchSampler(sizes, limit, **options))
    used = data.draw(st.integers(0, len(whole)))
    ahead = data.draw(st.integers(used, len(whole)))
    sampler = BucketBatchSampler(sizes, limit, **options)
    prefetching = iter(sampler)
    for _ in range(ahead):
        next(prefetching)
    state = sampler.state_dict(consumed=sum(map(len, whole[:used])))
    resumed = BucketBatchSampler(sizes, limit, **options)
    resumed.load_state_dict(state)
    resumed.set_epoch(0)  # what loops do before every epoch; it must not rewind
    assert list(resumed) == whole[used:]


def test_what_entered_the_window_while_prefetching_leaves_it_again() -> None:
    sizes, _ = skewed_sampler(16, 0)
    options: dict[str, Any] = {"buckets": 6, "seed": 8, "window": 200}
    whole = list(BucketBatchSampler(sizes, 16, **options))
    sampler = BucketBatchSampler(sizes, 16, **options)
    prefetching = iter(sampler)
    for _ in range(60):
        next(prefetching)
    resumed = BucketBatchSampler(sizes, 16, **options)
    resumed.load_state_dict(sampler.state_dict(consumed=sum(map(len, whole[:40]))))
    assert list(resumed) == whole[40:]


@given(sizes=SIZES, limits=st.lists(LIMITS, min_size=1, max_size=8), options=OPTIONS)
def test_a_batch_size_that_changes_in_the_middle_of_an_epoch_loses_nothing(
    sizes: Any, limits: list[BatchLimit], options: dict[str, Any]
) -> None:
    sampler = BucketBatchSampler(sizes, limits[0], **options)
    drawn: list[int] = []
    for step in range(10**6):
        sampler.batch_size = limits[step % len(limits)]
        if not (batch := sampler.next_batch()):
            break
        drawn += batch
    assert Counter(drawn) == Counter(range(len(sizes)))


@given(sizes=SIZES, limit=LIMITS, counts=st.lists(st.integers(1, 40), min_size=1, max_size=5), options=OPTIONS)
def test_a_global_batch_has_exactly_the_examples_that_were_asked_for(
    sizes: Any, limit: BatchLimit, counts: list[int], options: dict[str, Any]
) -> None:
    sampler = BucketBatchSampler(sizes, limit, **options)
    drawn: list[int] = []
    step = 0
    while remaining := sampler.remaining:
        wanted = counts[step % len(counts)]
        found = sampler.draw(wanted)
        assert len(found) == min(wanted, remaining)
        drawn += found
        step += 1
    assert sampler.draw(1) == []
    assert Counter(drawn) == Counter(range(len(sizes)))


@given(sizes=LENGTHS, fraction=st.floats(0.01, 1.0), options=OPTIONS, data=st.data())
def test_a_curriculum_s_epoch_is_the_easiest_share_once(
    sizes: list[int], fraction: float, options: dict[str, Any], data: st.DataObject
) -> None:
    difficulty = data.draw(st.lists(st.integers(0, 9), min_size=len(sizes), max_size=len(sizes)))
    sampler = BucketBatchSampler(sizes, 4, difficulty=difficulty, **options)
    sampler.allowed_fraction = fraction
    easiest = sorted(range(len(sizes)), key=lambda index: difficulty[index])[: int(np.ceil(fraction * len(sizes)))]
    first = sampler.next_batch()
    sampler.allowed_fraction = 1.0  # takes effect with the next epoch
    state = sampler.state_dict()
    rest = drain(sampler)
    assert Counter(first + flat(rest)) == Counter(easiest)
    resumed = BucketBatchSampler(sizes, 4, difficulty=difficulty, **options)
    resumed.load_state_dict(state)
    assert drain(resumed) == rest
    resumed.set_epoch(1)
    assert Counter(flat(drain(resumed))) == Counter(range(len(sizes)))


def test_one_bucket_is_a_plain_shuffle() -> None:
    order = flat(list(BucketBatchSampler(list(range(1, 201)), 16, buckets=1, seed=3)))
    places = np.argsort(order)
    assert sorted(order) == list(range(200))
    # Under a fair shuffle the correlation has a standard deviation of 1 / sqrt(199).
    assert abs(np.corrcoef(places, np.arange(200))[0, 1]) < 5 / np.sqrt(199)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("limit", [16, ElementBudget(elements=4096, max_items=256)])
def test_the_stream_of_batches_has_no_trend(seed: int, limit: BatchLimit) -> None:
    """Choice in proportion to what remains makes every order of the batches equally likely.

    So the first and the last tenth of the batches, m of N, are random samples without replacement, and the difference
    of their means has the variance 2 * s**2 / m, with s**2 the variance (N - 1) of all batches. Five standard
    deviations are allowed. Choosing evenly among the buckets that have examples left exceeds that, as it must: except
    under an element budget, which gives the buckets about as many batches each.
    """
    sizes, sampler = skewed_sampler(limit, seed)
    fair = drain(sampler)
    assert trend(sizes, fair) < 5
    if isinstance(limit, int):
        assert trend(sizes, chosen_evenly(fair, sampler, seed)) > 5


def test_a_bounded_window_keeps_the_shuffled_order_nearly() -> None:
    sizes, _ = skewed_sampler(16, 0)
    plain = BucketBatchSampler(sizes, 16, buckets=1, seed=5)
    place_in_order = {index: place for place, index in enumerate(flat(drain(plain)))}
    windowed = flat(drain(BucketBatchSampler(sizes, 16, buckets=8, seed=5, window=512)))
    # An example is taken only after it has entered: at most the window, and the 16 of its batch, ahead of its place.
    assert all(place_in_order[index] - place < 512 + 16 for place, index in enumerate(windowed))
    unbounded = flat(drain(BucketBatchSampler(sizes, 16, buckets=8, seed=5)))
    assert any(place_in_order[index] - place >= 512 + 16 for place, index in enumerate(unbounded))


def skewed_sampler(limit: BatchLimit, seed: int) -> tuple[list[int], BucketBatchSampler]:
    rng = np.random.default_rng(7)
    sizes = np.clip(rng.lognormal(np.log(60), 0.8, 8000).round(), 1, 1024).astype(int).tolist()
    return sizes, BucketBatchSampler(sizes, limit, buckets=8, seed=seed)


def trend(sizes: list[int], batches: list[list[int]]) -> float:
    """Return the difference between the mean sizes of the first and the last tenth, in standard deviations."""
    means = np.array([np.mean([sizes[index] for index in batch]) for batch in batches])
    tenth = len(means) // 10
    difference = means[:tenth].mean() - means[-tenth:].mean()
    return float(abs(difference) / np.sqrt(2 * means.var(ddof=1) / tenth))


def chosen_evenly(batches: list[list[int]], sampler: BucketBatchSampler, seed: int) -> list[list[int]]:
    """Return the same batches in the order in which an even choice among the buckets would have drawn them."""
    rng = random.Random(seed)
    queues: dict[Any, list[list[int]]] = {}
    for batch in reversed(batches):
        queues.setdefault(sampler.padded_shape(batch), []).append(batch)
    drawn: list[list[int]] = []
    while queues:
        bucket = rng.choice(sorted(queues))
        drawn.append(queues[bucket].pop())
        if not queues[bucket]:
            del queues[bucket]
    return drawn


PINNED_STREAM = [[1, 6, 10], [11, 7, 5], [4, 3, 9], [0, 2, 8]]
