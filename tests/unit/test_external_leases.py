"""Leases for other processes: who gets the device, what is answered when, and what becomes of those who keep it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from lease_desk import LeaseDesk

from batchd_server.device.external_leases import LIMIT_FACTOR, MAX_ASKS, MAX_CLIENTS, SHORTEST_LIMIT_S, ExternalLeases
from batchd_server.device.external_tenant import IDLE_S
from batchd_server.device.repository import Caller
from batchd_server.errors import BadRequest, NotFound, QueueFull, Unavailable


def test_an_idle_device_is_lent_at_once_and_for_no_less_than_a_second() -> None:
    lease = LeaseDesk().lease()
    assert lease["limit_s"] == SHORTEST_LIMIT_S
    assert lease["predicted_s"] is None


def test_the_limit_follows_what_the_client_expects_and_then_what_it_has_shown() -> None:
    desk = LeaseDesk()
    assert desk.lease(expected_s=2.0)["limit_s"] == LIMIT_FACTOR * 2.0
    desk = LeaseDesk()
    for _ in range(3):
        assert desk.held_for(0.5)["held_s"] == pytest.approx(0.5)
    assert desk.lease(expected_s=0.001)["limit_s"] == pytest.approx(LIMIT_FACTOR * 0.5)


def test_the_first_lease_of_a_client_says_nothing_about_the_others() -> None:
    """It pays for what happens once: contexts, compilation, warm caches."""
    desk = LeaseDesk()
    desk.held_for(0.9)
    desk.held_for(0.1)
    assert desk.lease()["predicted_s"] == pytest.approx(0.1)


def test_who_waits_is_answered_when_the_device_is_returned() -> None:
    desk = LeaseDesk()
    lease = desk.lease("a")
    waiting = desk.ask("b")
    desk.advance(0.2)
    assert waiting not in desk.replies
    desk.give_back(lease["id"])
    assert desk.replies[waiting]["lease"]["client"] == "b"
    assert desk.replies[waiting]["lease"]["waited_s"] == pytest.approx(0.2)


def test_an_ask_that_waits_in_vain_is_answered_in_time_and_told_why() -> None:
    desk = LeaseDesk()
    desk.lease("a", expected_s=10.0)
    waiting = desk.ask("b", timeout_s=0.3)
    desk.advance(5.0)
    assert desk.replies[waiting] == {"lease": None, "denied": "lent"}
    assert desk.replied[waiting] == pytest.approx(1000.3)
    assert not desk.external.overview(desk.now)[1]["waiting"]


def test_a_lease_that_is_not_returned_is_taken_back_and_its_client_rests_longer_each_time() -> None:
    desk = LeaseDesk()
    rests: list[float] = []
    for _ in range(4):
        call = desk.ask("a", timeout_s=100.0)
        while call not in desk.replies:
            desk.advance(0.1)
        desk.advance(desk.replies[call]["lease"]["limit_s"])
        assert desk.controller.leases.running is None
        rests.append(desk.external.overview(desk.now)[0]["rests_s"])
    assert desk.external.overview(desk.now)[0]["num_expired"] == 4
    assert all(later > 1.5 * earlier > 0 for earlier, later in pairwise(rests))


def test_what_waits_runs_as_soon_as_an_overdue_lease_is_taken_back() -> None:
    desk = LeaseDesk(slo_s=10.0)
    granted = desk.now
    desk.lease("a")
    desk.advance(0.5)
    desk.offer()
    assert not desk.batches
    desk.advance(0.49)
    assert not desk.batches
    desk.advance(0.02)
    assert len(desk.batches) == 1
    assert desk.now - granted < SHORTEST_LIMIT_S + 0.02


def test_a_client_that_rests_is_passed_over_and_comes_back() -> None:
    desk = LeaseDesk()
    desk.lease("a")
    desk.advance(SHORTEST_LIMIT_S)
    rests_s = desk.external.overview(desk.now)[0]["rests_s"]
    assert rests_s > 0
    waiting = desk.ask("a")
    other = desk.ask("b")
    assert desk.replies[other]["lease"]["client"] == "b"
    desk.give_back(desk.replies[other]["lease"]["id"])
    assert waiting not in desk.replies
    desk.advance(rests_s + 0.1)
    assert desk.replies[waiting]["lease"]["client"] == "a"


def test_a_late_return_is_told_so_and_may_ask_for_the_next() -> None:
    desk = LeaseDesk()
    lease = desk.lease("a", weight=2.0)
    desk.advance(3.0)
    call = desk.give_back(lease["id"], following={"timeout_s": 100.0})
    desk.advance(100.0)
    told = desk.replies[call]
    assert told["expired"] is True
    assert told["held_s"] == pytest.approx(3.0)
    assert told["lease"]["limit_s"] == pytest.approx(LIMIT_FACTOR * 3.0), "it is known now to take longer"


def test_return_and_next_are_one_call() -> None:
    desk = LeaseDesk()
    lease = desk.lease("a")
    desk.advance(0.1)
    told = desk.replies[desk.give_back(lease["id"], following={"timeout_s": 1.0})]
    assert (told["expired"], told["held_s"]) == (False, pytest.approx(0.1))
    assert told["lease"]["id"] != lease["id"]


def test_a_lease_is_returned_once_and_through_any_front() -> None:
    desk = LeaseDesk()
    lease = desk.lease()
    assert desk.replies[desk.give_back(lease["id"], front=b"another")]["expired"] is False
    assert isinstance(desk.replies[desk.give_back(lease["id"])], NotFound)
    assert isinstance(desk.replies[desk.give_back("lease-never")], NotFound)


def test_an_ask_whose_client_has_gone_is_forgotten_and_so_is_what_it_was_granted() -> None:
    desk = LeaseDesk()
    holder = desk.ask("a")
    gone, next_in_line = desk.ask("b"), desk.ask("c")
    desk.drop(gone)
    desk.drop(holder)
    assert gone not in desk.replies
    assert desk.replies[next_in_line]["lease"]["client"] == "c"


def test_a_front_that_is_gone_takes_its_asks_along_but_not_its_leases() -> None:
    desk = LeaseDesk()
    lease = desk.replies[desk.ask("a", front=b"gone")]["lease"]
    waiting = desk.ask("b", front=b"gone")
    desk.external.forget_front(b"gone")
    desk.advance(0.5)
    assert desk.replies[desk.give_back(lease["id"])]["expired"] is False
    assert waiting not in desk.replies
    assert desk.controller.leases.running is None


def test_time_is_shared_by_weight() -> None:
    desk = LeaseDesk()
    held = {"a": 0.0, "b": 0.0}
    waiting = {client: desk.ask(client, weight=weight) for client, weight in (("a", 3.0), ("b", 1.0))}
    for _ in range(400):
        (client,) = [client for client, call in waiting.items() if call in desk.replies]
        desk.advance(0.01)
        held[client] += 0.01
        lease = desk.replies[waiting[client]]["lease"]["id"]
        waiting[client] = desk.give_back(lease, following={"timeout_s": 300.0})
    assert held["a"] / held["b"] == pytest.approx(3.0, rel=0.05)


def test_a_moment_between_two_leases_costs_no_turn() -> None:
    """Whoever returns the device, draws a batch and asks again has not been away."""
    desk = LeaseDesk()
    held = {"a": 0, "b": 0}
    waiting = {client: desk.ask(client, weight=weight) for client, weight in (("a", 1.0), ("b", 3.0))}
    for _ in range(400):
        client = next(client for client, call in waiting.items() if call in desk.replies)
        desk.advance(0.01)
        held[client] += 1
        desk.give_back(desk.replies[waiting[client]]["lease"]["id"])
        desk.advance(0.002)
        waiting[client] = desk.ask(client, weight={"a": 1.0, "b": 3.0}[client], timeout_s=300.0)
    assert held["b"] / held["a"] == pytest.approx(1.0, rel=0.05), "the device is not kept idle for the heavier one"


def test_processes_that_share_a_name_take_turns() -> None:
    desk = LeaseDesk()
    first = desk.lease("a")
    second = desk.ask("a")
    third = desk.ask("a")
    desk.give_back(first["id"])
    assert second in desk.replies
    assert third not in desk.replies
    desk.give_back(desk.replies[second]["lease"]["id"])
    assert desk.replies[third]["lease"] is not None


def test_a_lease_that_is_too_long_beside_a_promise_is_denied_with_the_reason() -> None:
    desk = LeaseDesk(slo_s=0.1)
    call = desk.ask("a", expected_s=0.2, timeout_s=1.0)
    desk.advance(1.0)
    assert desk.replies[call] == {"lease": None, "denied": "too_long"}


def patiently(desk: LeaseDesk, **wanted: Any) -> dict[str, Any]:
    """Ask again and again, as the client does, until there is a lease."""
    for _ in range(1000):
        call = desk.ask("a", timeout_s=30.0, **wanted)
        while call not in desk.replies:
            desk.advance(0.01)
        lease: dict[str, Any] | None = desk.replies[call]["lease"]
        if lease is not None:
            return lease
    raise AssertionError("it was never lent the device")


def test_one_slow_lease_does_not_shut_a_client_out_for_ever() -> None:
    desk = LeaseDesk(slo_s=0.1)
    desk.held_for(0.01)
    desk.held_for(0.5)  # thought to be the rule, and longer than can ever be lent
    lease = patiently(desk)
    assert lease["predicted_s"] == pytest.approx(0.5)
    assert lease["limit_s"] == SHORTEST_LIMIT_S
    for _ in range(8):
        desk.give_back(lease["id"])
        lease = patiently(desk)
        desk.advance(0.01)
    asked = desk.now
    assert lease["predicted_s"] < 0.05
    desk.give_back(lease["id"])
    patiently(desk)
    assert desk.now - asked < 0.1, "it is lent the device at once again"


def test_a_client_that_is_always_too_slow_is_tried_less_and_less_often_and_never_for_long() -> None:
    desk = LeaseDesk(slo_s=0.1)
    granted: list[float] = []
    for _ in range(3):
        lease = patiently(desk, expected_s=60.0)
        granted.append(desk.now)
        assert lease["limit_s"] == SHORTEST_LIMIT_S
        desk.advance(5.0)
        assert desk.replies[desk.give_back(lease["id"])]["expired"] is True
    pauses = [later - earlier for earlier, later in pairwise(granted)]
    assert all(later > 1.5 * earlier > 0 for earlier, later in pairwise(pauses))


def test_who_asks_for_nothing_is_forgotten() -> None:
    desk = LeaseDesk()
    desk.held_for(0.1)
    desk.advance(IDLE_S - 1)
    assert len(desk.external.overview(desk.now)) == 1
    desk.advance(2.0)
    assert desk.external.overview(desk.now) == []
    assert not desk.controller.leases.broker.tenants


def test_a_drain_tells_who_waits_and_lends_nothing_more() -> None:
    desk = LeaseDesk()
    lease = desk.lease("a")
    waiting = desk.ask("b")
    desk.controller.drain()
    desk.external.drain()
    assert isinstance(desk.replies[waiting], Unavailable)
    assert isinstance(desk.replies[desk.ask("c")], Unavailable)
    assert desk.replies[desk.give_back(lease["id"], following={"timeout_s": 9.0})]["lease"] is None


def test_there_are_limits_to_how_many_may_ask() -> None:
    desk = LeaseDesk()
    desk.lease("holder")
    for _ in range(MAX_ASKS):
        desk.ask("a")
    assert isinstance(desk.replies[desk.ask("a")], QueueFull)
    for number in range(MAX_CLIENTS - 2):
        desk.ask(f"client-{number}")
    assert isinstance(desk.replies[desk.ask("one-too-many")], QueueFull)


def test_classic_policies_lend_nothing() -> None:
    external = ExternalLeases(None, lambda _: None, lambda *_: None)
    with pytest.raises(BadRequest, match="adaptive"):
        external.ask(Caller(b"f", 1), {"token": "t", "ask": {"client": "a"}}, 0.0)
    external.forget_front(b"f")
    external.tick(0.0)
    assert external.overview(0.0) == []


@pytest.mark.parametrize(
    ("ask", "field"),
    [
        ({}, "ask.client"),
        ({"client": "a b"}, "ask.client"),
        ({"client": "a" * 65}, "ask.client"),
        ({"client": "a\n"}, "ask.client"),
        ({"client": "a", "weight": 0}, "ask.weight"),
        ({"client": "a", "weight": True}, "ask.weight"),
        ({"client": "a", "expected_s": 0}, "ask.expected_s"),
        ({"client": "a", "timeout_s": -1}, "ask.timeout_s"),
        ({"client": "a", "timeout_s": 301}, "ask.timeout_s"),
        ({"client": "a", "patience": 1}, "ask.patience"),
    ],
)
def test_what_is_asked_wrongly_is_refused_with_the_field(ask: dict[str, object], field: str) -> None:
    desk = LeaseDesk()
    refused = desk.replies[desk.call(desk.external.ask, ask=ask)]
    assert isinstance(refused, BadRequest)
    assert refused.field == field
