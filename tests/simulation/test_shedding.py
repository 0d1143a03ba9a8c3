"""Shedding in front of a real controller, on a virtual clock: it costs no goodput, and saves a slow front."""

from __future__ import annotations

import random
from functools import cache

import pytest
from shedding_rig import Outcome, Request, Service, poisson

from batchd import ModelPolicy
from batchd.simulator import DeviceLaw
from batchd.simulator.device_law import Slowdown
from batchd_server.front.shedding import CALM_S, Shedding

LAW = DeviceLaw(fixed=0.005, per_element=0.0003)
"""100 items of 32 elements per second."""
CAPACITY = 100.0
SECONDS = 15.0
SLO = {"m": ModelPolicy(slo_s=0.25)}
SHORT_QUEUE = {"m": ModelPolicy(slo_s=2.0, max_queue_size=16)}
SLOW_FRONT = {"let_through_s": 0.0015, "turn_away_s": 0.0003}
"""A front of one core gets 670 requests per second to the device, or turns 3,300 away."""


@cache
def overloaded(factor: float, *, shedding: bool, short_queue: bool = False, slow_front: bool = False) -> Outcome:
    requests = list(poisson(random.Random(5), factor * CAPACITY, SECONDS))
    service = Service(
        SHORT_QUEUE if short_queue else SLO,
        LAW,
        shedding=Shedding() if shedding else None,
        **(SLOW_FRONT if slow_front else {}),
    )
    return service.run(requests)


@pytest.mark.parametrize("short_queue", [False, True])
@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0, 5.0, 20.0])
def test_it_costs_no_goodput(factor: float, *, short_queue: bool) -> None:
    shed = overloaded(factor, shedding=True, short_queue=short_queue)
    assert shed.good.total() >= 0.98 * overloaded(factor, shedding=False, short_queue=short_queue).good.total()


@pytest.mark.parametrize("short_queue", [False, True])
def test_about_as_many_look_for_room_as_find_it(*, short_queue: bool) -> None:
    outcome = overloaded(20.0, shedding=True, short_queue=short_queue)
    assert outcome.refused.total() <= 2 * outcome.good.total()
    assert outcome.shed.total() >= 10 * outcome.refused.total()


def test_below_the_capacity_nobody_is_turned_away() -> None:
    outcome = overloaded(0.5, shedding=True)
    assert (outcome.shed.total(), outcome.refused.total()) == (0, 0)


def test_a_front_that_would_be_too_slow_keeps_its_goodput() -> None:
    good = {factor: overloaded(factor, shedding=True, slow_front=True).good.total() for factor in (1.0, 2.0, 5.0, 20.0)}
    assert min(good.values()) >= 0.95 * max(good.values())
    assert overloaded(20.0, shedding=False, slow_front=True).good.total() < 0.1 * max(good.values())
    waits = sorted(overloaded(20.0, shedding=True, slow_front=True).refusal_waits)
    assert waits[len(waits) // 2] < 0.02


def test_pauses_grow_with_the_crowd_and_differ() -> None:
    medians = []
    for factor in (2.0, 20.0):
        pauses = sorted(overloaded(factor, shedding=True).pauses)
        medians.append(pauses[len(pauses) // 2])
        assert pauses[3 * len(pauses) // 4] > 1.5 * pauses[len(pauses) // 4]
    assert medians[1] > 5 * medians[0]


def served(requests: list[Request], *, shedding: bool, law: DeviceLaw = LAW) -> Outcome:
    policies = {"m": ModelPolicy(slo_s=0.25), "other": ModelPolicy(slo_s=1.0)}
    return Service(policies, law, shedding=Shedding() if shedding else None).run(requests)


def both(*streams: list[Request]) -> list[Request]:
    return sorted((request for stream in streams for request in stream), key=lambda request: request.at)


@pytest.mark.parametrize("apart", [{"priority": 1}, {"model": "other"}])
def test_the_crowd_of_one_kind_does_not_shed_another(apart: dict[str, object]) -> None:
    crowd = list(poisson(random.Random(1), 10 * CAPACITY, SECONDS, name="crowd"))
    few = list(poisson(random.Random(2), 0.2 * CAPACITY, SECONDS, name="few", **apart))
    shed, plain = (served(both(crowd, few), shedding=shedding) for shedding in (True, False))
    assert shed.shed["crowd"] > 0.5 * len(crowd)
    assert shed.good["few"] >= 0.97 * plain.good["few"]
    if "priority" in apart:  # the most urgent are refused for nobody's sake
        assert shed.shed["few"] <= 0.01 * len(few)


def test_small_items_are_let_in_while_large_ones_are_refused() -> None:
    large = list(poisson(random.Random(1), 200, SECONDS, name="large", size=256))
    small = list(poisson(random.Random(2), 100, SECONDS, name="small", size=8))
    shed, plain = (served(both(large, small), shedding=shedding) for shedding in (True, False))
    assert shed.good["small"] >= 0.97 * plain.good["small"]


def test_when_the_crowd_has_gone_everybody_is_let_in() -> None:
    crowd = list(poisson(random.Random(1), 20 * CAPACITY, 5.0, name="crowd"))
    times = [5.5 + request.at for request in poisson(random.Random(2), 0.5 * CAPACITY, 5.0)]
    after = [Request(at=at, name="soon" if at < 5.0 + CALM_S + 0.1 else "after") for at in times]
    outcome = served(both(crowd, after), shedding=True)
    assert outcome.shed["soon"] + outcome.refused["soon"] <= 0.1 * sum(request.name == "soon" for request in after)
    assert outcome.shed["after"] + outcome.refused["after"] == 0


def test_a_device_that_becomes_faster_is_used_at_once() -> None:
    law = DeviceLaw(
        fixed=0.005, per_element=0.0003, slowdowns=(Slowdown(begins=0.0, factor=4.0), Slowdown(begins=8.0, factor=1.0))
    )
    requests = list(poisson(random.Random(3), 3 * CAPACITY, 16.0))
    rates = []
    for shedding in (True, False):
        times = served(requests, shedding=shedding, law=law).good_at
        rates.append(sum(10.0 <= at < 15.0 for at in times) / 5)
    assert rates[0] >= 0.97 * rates[1]
