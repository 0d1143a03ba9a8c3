"""The classic rules behave as they are known to, and the controller beats them where it should."""

import random
from itertools import combinations

import pytest

from batchd import Completed, Item, ItemId, RunBatch, Wait
from batchd.baselines import AdditiveIncrease, FixedBuckets, FixedWindow, TotalTime
from batchd.baselines.total_time import partition
from batchd.scheduler import Scheduler
from batchd.simulator import SimulationResult, parse_cost, parse_lengths, parse_policy, poisson_arrivals
from batchd.simulator.simulation import simulate_schedulers

BASELINES = ("window:5:32", "buckets:16,32,64,128:5:32", "aimd", "total-time", "threshold:0.6:0.8")
MIXES = ("lognormal:24:1.0:2:256", "bimodal:0.85:8:16:150:256")


def item(number: int, length: int, at: float = 0.0) -> Item:
    return Item(id=ItemId(number), model="m", shape=(length,), arrived=at, deadline=at + 1.0)


def run(policy: str, rate: float, lengths: str, seconds: float = 30.0, devices: int = 1) -> SimulationResult:
    rng = random.Random(7)
    arrivals = poisson_arrivals(rng, rate, seconds, parse_lengths(lengths, rng), 0.25)
    scheduler = parse_policy(policy, slo_s=0.25, max_batch_size=64)
    return simulate_schedulers(arrivals, scheduler, parse_cost("0.002:0.00024"), seconds=seconds, devices=devices)


def launched(scheduler: Scheduler, now: float) -> RunBatch:
    decision = scheduler.next(now)
    assert isinstance(decision, RunBatch)
    return decision


def test_a_fixed_window_closes_after_its_time_or_when_full() -> None:
    window = FixedWindow(0.010, 3)
    window.offer(item(0, 10, at=1.0), 1.0)
    assert window.next(1.0) == Wait(pytest.approx(1.010))
    batch = launched(window, 1.010)
    window.report(Completed(batch_id=batch.batch_id, seconds=0.1, peak_bytes=None))
    for number in range(1, 5):
        window.offer(item(number, number, at=2.0), 2.0)
    assert launched(window, 2.0).items == (1, 2, 3)


def test_fixed_buckets_do_not_mix_sizes() -> None:
    buckets = FixedBuckets((16, 64), 0.0, 8)
    for number, length in enumerate((10, 60, 12, 200, 16)):
        buckets.offer(item(number, length), 0.0)
    assert buckets.cancel(ItemId(2))
    batches = []
    for _ in range(3):
        batch = launched(buckets, 0.0)
        batches.append(batch.items)
        buckets.report(Completed(batch_id=batch.batch_id, seconds=0.1, peak_bytes=None))
    assert batches == [(0, 4), (1,), (3,)]


def test_additive_increase_grows_by_one_and_falls_by_a_tenth() -> None:
    rule = AdditiveIncrease(slo_s=0.1, max_batch_size=64)
    number, sizes = 0, []
    for seconds in [0.05] * 10 + [0.2] + [0.05]:
        for _ in range(64):
            rule.offer(item(number, 8), 0.0)
            number += 1
        batch = launched(rule, 0.0)
        sizes.append(len(batch.items))
        rule.report(Completed(batch_id=batch.batch_id, seconds=seconds, peak_bytes=None))
    assert sizes == [*range(1, 12), 9]


def test_the_partition_is_the_cheapest_of_all() -> None:
    def cost(batch_size: int, elements: int) -> float:
        return 5.0 + batch_size * elements

    rng = random.Random(3)
    for _ in range(30):
        items = [item(number, rng.randint(1, 30)) for number in range(rng.randint(1, 8))]
        lengths = sorted(one.shape[0] for one in items)
        cheapest = min(
            sum(
                cost(end - begin, lengths[end - 1])
                for begin, end in zip((0, *cuts), (*cuts, len(lengths)), strict=True)
            )
            for count in range(len(lengths))
            for cuts in combinations(range(1, len(lengths)), count)
        )
        found = partition(items, 64, cost)
        assert sum(cost(len(batch), max(one.shape[0] for one in batch)) for batch in found) == pytest.approx(cheapest)
        assert sorted(one.id for batch in found for one in batch) == sorted(one.id for one in items)


def test_total_time_passes_over_what_was_cancelled_after_planning() -> None:
    rule = TotalTime(2)
    for number in range(4):
        rule.offer(item(number, 8), 0.0)
    first = launched(rule, 0.0)
    left = set(range(4)) - set(first.items)
    gone = left.pop()
    rule.cancel(ItemId(gone))
    rule.report(Completed(batch_id=first.batch_id, seconds=0.1, peak_bytes=None))
    assert set(launched(rule, 0.0).items) == left


@pytest.mark.parametrize("policy", ["adaptive", *BASELINES])
@pytest.mark.parametrize("devices", [1, 3])
def test_every_arrival_ends_once_under_every_policy(policy: str, devices: int) -> None:
    result = run(policy, 60, MIXES[0], seconds=10.0, devices=devices)
    assert len(result.latencies) + result.refused + result.expired == result.offered
    assert 0 < result.device_busy <= 1
    assert result.latencies == run(policy, 60, MIXES[0], seconds=10.0, devices=devices).latencies


@pytest.mark.parametrize("lengths", MIXES)
@pytest.mark.parametrize("rate", [20, 60, 100, 150])
def test_the_controller_is_no_worse_than_the_best_baseline_and_better_at_saturation(lengths: str, rate: float) -> None:
    ours = run("adaptive", rate, lengths).goodput_per_s
    best = max(run(policy, rate, lengths).goodput_per_s for policy in BASELINES)
    assert ours >= 0.97 * best
    if rate >= 100:
        assert ours > 2 * best


def test_devices_share_the_load() -> None:
    alone, together = run("adaptive", 200, MIXES[0]), run("adaptive", 200, MIXES[0], devices=3)
    assert alone.in_time / alone.offered < 0.85
    assert together.in_time / together.offered > 0.99


@pytest.mark.parametrize("spec", ["", "window", "window:a:3", "buckets:x:5:32", "fastest"])
def test_an_unknown_policy_is_refused_with_what_is_allowed(spec: str) -> None:
    with pytest.raises(ValueError, match="is not one of adaptive, window:MS:SIZE"):
        parse_policy(spec, slo_s=1.0, max_batch_size=8)


@pytest.mark.parametrize("spec", ["", "lognormal:24", "bimodal:2:1:2:3:4", "fixed:0", "lognormal:a:b:c:d"])
def test_unknown_lengths_are_refused_with_what_is_allowed(spec: str) -> None:
    with pytest.raises(ValueError, match="are not one of lognormal"):
        parse_lengths(spec, random.Random(0))


@pytest.mark.parametrize("spec", ["", "1", "a:b", "1:2:3:4:5", "-1:1", "0:0"])
def test_a_cost_that_is_none_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="cost"):
        parse_cost(spec)
