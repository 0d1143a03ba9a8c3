"""Several models on one device: none of them can ask so much that nothing is left for the others."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from batchd import Completed, Controller, Item, ItemId, ModelPolicy, Refused, RunBatch
from batchd.decision import Expire

FIXED_S, PER_ELEMENT_S, LENGTH = 0.005, 0.0003, 32
SECONDS = 30.0
SLO_S = 0.25
"""The device answers about 100 items per second in time, and one model at 30/s needs a third of it."""


def law(elements: int) -> float:
    return FIXED_S + PER_ELEMENT_S * elements


def taught(models: list[str]) -> Controller:
    made = Controller()
    for name in models:
        made.add_model(name, ModelPolicy(slo_s=SLO_S))
        for batch_size, length in ((1, 8), (4, 8), (1, 32), (4, 32), (8, 32), (1, 64), (16, 32)):
            made.calibrate(name, batch_size, (length,), law(batch_size * length))
    return made


def answered(rates: dict[str, float], seed: int) -> dict[str, tuple[int, int]]:
    """Put a Poisson stream per model on one device for `SECONDS`; return (offered, answered in time) of each."""
    noise = random.Random(seed)
    arrivals = []
    for name, rate in rates.items():
        at = noise.expovariate(rate)
        while at < SECONDS:
            arrivals.append((at, name))
            at += noise.expovariate(rate)
    arrivals.sort(reverse=True)
    controller = taught(list(rates))
    offered, good = Counter(name for _, name in arrivals), Counter[str]()
    admitted: dict[ItemId, tuple[str, float]] = {}
    running: tuple[RunBatch, float, float] | None = None
    now, wake = 0.0, math.inf
    while arrivals or running is not None or controller.num_waiting():
        now = max(now, min(arrivals[-1][0] if arrivals else math.inf, running[2] if running is not None else wake))
        if running is not None and now >= running[2]:
            batch, seconds, _ = running
            controller.report(Completed(batch_id=batch.batch_id, seconds=seconds, peak_bytes=None))
            good.update(name for name, deadline in map(admitted.__getitem__, batch.items) if now <= deadline)
            running = None
        while arrivals and arrivals[-1][0] <= now:
            at, name = arrivals.pop()
            item = Item(id=ItemId(len(arrivals)), model=name, shape=(LENGTH,), arrived=at, deadline=at + SLO_S)
            if not isinstance(controller.offer(item, now), Refused):
                admitted[item.id] = name, item.deadline
        wake = math.inf
        while running is None and wake == math.inf:
            decision = controller.next(now)
            if isinstance(decision, RunBatch):
                seconds = law(decision.elements) * noise.uniform(0.97, 1.05)
                running = decision, seconds, now + seconds
            elif not isinstance(decision, Expire):
                wake = decision.until
                break
    return {name: (offered[name], good[name]) for name in rates}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("greedy", "modest"), [(300.0, 30.0), (1000.0, 30.0), (1000.0, 10.0)])
def test_a_model_that_asks_for_less_than_its_share_is_served_beside_one_that_asks_for_ten_times_the_device(
    greedy: float, modest: float, seed: int
) -> None:
    found = answered({"greedy": greedy, "modest": modest}, seed)
    offered, good = found["modest"]
    assert good >= 0.9 * offered
    assert sum(good for _, good in found.values()) >= 90.0 * SECONDS, "and the device works as much as before"


def test_models_that_all_ask_too_much_get_the_same() -> None:
    found = answered({"one": 1000.0, "other": 1000.0}, seed=3)
    one, other = (good for _, good in found.values())
    assert 0.8 <= one / other <= 1.25
    assert one + other >= 85.0 * SECONDS


def test_what_one_does_not_ask_for_is_the_others() -> None:
    alone = answered({"one": 300.0}, seed=4)["one"][1]
    beside = answered({"one": 300.0, "silent": 0.1}, seed=4)["one"][1]
    assert beside >= 0.95 * alone
