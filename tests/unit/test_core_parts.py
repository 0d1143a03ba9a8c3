import math

import pytest

from batchd import (
    Boundaries,
    BudgetPolicy,
    Item,
    ItemId,
    MemoryReading,
    ModelPolicy,
    Multiples,
    Proportional,
    num_elements,
)
from batchd.backlog import Backlog
from batchd.budget import budget_bytes, headroom_bytes
from batchd.lazy_heap import LazyHeap
from batchd.lifecycle import FINAL, TRANSITIONS, Event, State, advance, diagram
from batchd.waiting_room import Waiting, WaitingRoom

GIB = 2**30


def waiting(number: int, shape: tuple[int, ...], urgency: float = 1.0) -> Waiting:
    item = Item(id=ItemId(number), model="m", shape=shape, arrived=float(number), deadline=urgency)
    return Waiting(item, shape, urgency, urgency, 0.1, 1, urgency)


def test_multiples_round_up_every_dimension() -> None:
    assert Multiples(8).padded((1, 8, 9)) == (8, 8, 16)
    assert Multiples(8).padded(()) == ()
    assert Multiples(4).padded((0,)) == (4,)


def test_proportional_rungs_waste_less_than_one_part_of_any_size() -> None:
    ladder = Proportional(8)
    assert [ladder.padded((n,))[0] for n in (0, 1, 7, 9, 16, 17, 31, 33, 200, 256)] == [
        1,
        1,
        7,
        9,
        16,
        18,
        32,
        36,
        208,
        256,
    ]
    rungs = [ladder.padded((n,))[0] for n in range(1, 2000)]
    assert rungs == sorted(rungs)
    assert all(n <= rung < n * (1 + 1 / 8) for n, rung in enumerate(rungs, start=1))
    assert all(ladder.padded((rung,)) == (rung,) for rung in rungs)


def test_boundaries_round_up_to_the_next_edge_and_go_on_in_multiples_of_the_last() -> None:
    ladder = Boundaries((16, 64))
    assert [ladder.padded((n,))[0] for n in (1, 16, 17, 64, 65, 129)] == [16, 16, 64, 64, 128, 192]


@pytest.mark.parametrize("edges", [(), (0, 1), (4, 4), (8, 4)])
def test_bad_boundaries_are_refused(edges: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="strictly increasing"):
        Boundaries(edges)


def test_bad_policies_are_refused() -> None:
    with pytest.raises(ValueError, match="step"):
        Multiples(0)
    with pytest.raises(ValueError, match="parts"):
        Proportional(0)
    with pytest.raises(ValueError, match="slo_s"):
        ModelPolicy(slo_s=0)
    with pytest.raises(ValueError, match="max_wait_s"):
        ModelPolicy(max_wait_s=-1)
    with pytest.raises(ValueError, match="default_priority"):
        ModelPolicy(default_priority=4)
    with pytest.raises(ValueError, match="limit_fraction"):
        BudgetPolicy(limit_fraction=0)
    with pytest.raises(ValueError, match="safety_bytes"):
        BudgetPolicy(safety_bytes=-1)


def test_the_budget_is_the_lower_of_the_limit_and_what_others_leave() -> None:
    policy = BudgetPolicy(limit_fraction=0.5, safety_bytes=GIB)
    assert budget_bytes(MemoryReading(total=16 * GIB, device_free=15 * GIB, reserved=GIB), policy) == 7 * GIB
    assert budget_bytes(MemoryReading(total=16 * GIB, device_free=2 * GIB, reserved=3 * GIB), policy) == 4 * GIB
    assert budget_bytes(MemoryReading(total=16 * GIB), policy) == 7 * GIB
    assert budget_bytes(MemoryReading(device_free=2 * GIB), policy) == GIB
    assert budget_bytes(MemoryReading(), policy) is None
    assert budget_bytes(MemoryReading(device_free=0), policy) == 0


def test_headroom_is_the_budget_less_what_is_resident() -> None:
    policy = BudgetPolicy(limit_fraction=1.0, safety_bytes=0)
    assert headroom_bytes(MemoryReading(total=10, device_free=6, reserved=4, allocated=3), policy) == 7
    assert headroom_bytes(MemoryReading(total=10, device_free=1, reserved=0, allocated=3), policy) == 0
    assert headroom_bytes(MemoryReading(), policy) is None


def test_elements_of_shapes() -> None:
    assert [num_elements(shape) for shape in ((), (3,), (3, 4))] == [1, 3, 12]


def test_every_state_is_reached_and_final_states_have_no_way_out() -> None:
    assert set(TRANSITIONS.values()) | {State.OFFERED} == set(State)
    assert all(state not in FINAL for state, _ in TRANSITIONS)
    assert {event for _, event in TRANSITIONS} == set(Event)


def test_an_impossible_transition_is_a_bug_of_ours() -> None:
    with pytest.raises(AssertionError, match="cannot launch"):
        advance(State.FINISHED, Event.LAUNCH)


def test_the_documented_diagram_is_the_table() -> None:
    from pathlib import Path

    document = Path(__file__).parents[2] / "docs" / "architecture.md"
    assert diagram() in document.read_text()


def test_a_lazy_heap_forgets_the_dead() -> None:
    alive = {1: "a", 2: "b", 3: "c"}
    heap = LazyHeap(alive)
    for key, ticket in ((3.0, 1), (1.0, 2), (2.0, 3)):
        heap.push(key, ticket)
    assert heap.smallest(2) == [2, 3]
    del alive[2]
    assert heap.top() == 3
    assert heap.smallest(9) == [3, 1]
    alive.clear()
    assert heap.top() is None


def test_the_backlog_knows_what_is_more_urgent() -> None:
    backlog = Backlog(0.1)
    backlog.add(1.0, 0.5)
    backlog.add(1.0, 0.25)
    backlog.add(3.0, 2.0)
    assert backlog.ahead_of(2.0) == (0.75, 2)
    assert backlog.ahead_of(math.inf) == (2.75, 3)
    backlog.remove(1.0, 0.5)
    backlog.remove(1.0, 0.25)
    assert backlog.ahead_of(2.0) == (0.0, 0)


def test_the_waiting_room_keeps_order_by_volume_and_urgency() -> None:
    room = WaitingRoom(0.1)
    for number, shape, urgency in ((0, (4, 4), 5.0), (1, (2, 2), 4.0), (2, (2, 2), 3.0), (3, (1, 9), 9.0)):
        room.add(waiting(number, shape, urgency))
    assert [group.padded_shape for group in room.groups()] == [(2, 2), (1, 9), (4, 4)]
    most_urgent = room.most_urgent()
    assert most_urgent is not None
    assert most_urgent.item.id == 2
    assert [one.item.id for one in room.take(room.groups()[0], 5)] == [2, 1]
    room.remove(ItemId(2))
    room.remove(ItemId(1))
    assert [group.padded_shape for group in room.groups()] == [(1, 9), (4, 4)]
    assert len(room) == 2
    assert ItemId(1) not in room


def test_an_item_that_comes_back_is_there_once() -> None:
    room = WaitingRoom(0.1)
    one = waiting(0, (4,))
    room.add(one)
    room.remove(ItemId(0))
    room.add(one)
    assert room.take(room.groups()[0], 5) == [one]


def test_a_lazy_heap_whose_top_nobody_asks_for_does_not_grow() -> None:
    alive: set[int] = set()
    heap = LazyHeap(alive)
    for ticket in range(10_000):
        alive.add(ticket)
        heap.push(float(-ticket), ticket)
        alive.discard(ticket - 3)
    assert len(heap) < 200
    assert heap.smallest(3) == [9999, 9998, 9997]
