"""Whatever clients and fronts do, and whoever dies: one lease at a time, an answer for all, and the device back."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st
from lease_desk import LeaseDesk

FRONTS = (b"one", b"two")
CLIENT = st.sampled_from(["a", "b", "c"])
FRONT = st.sampled_from(FRONTS)
TIMEOUT = st.floats(0, 5)
STEP = st.one_of(
    st.tuples(st.just("ask"), CLIENT, FRONT, TIMEOUT, st.none() | st.floats(0.001, 2)),
    st.tuples(st.just("return"), st.integers(0, 9), FRONT),
    st.tuples(st.just("renew"), st.integers(0, 9), FRONT, TIMEOUT),
    st.tuples(st.just("drop"), st.integers(1, 30)),
    st.tuples(st.just("front gone"), FRONT),
    st.tuples(st.just("pass"), st.floats(0, 3)),
    st.tuples(st.just("item")),
)


@dataclass
class Expected:
    """What must become of every call."""

    until: dict[int, float] = field(default_factory=dict)
    through: dict[int, bytes] = field(default_factory=dict)
    excused: set[int] = field(default_factory=set)  # whoever made them has gone


@given(st.lists(STEP, max_size=60), st.none() | st.floats(0.05, 20))
def test_laws(steps: list[tuple], slo_s: float | None) -> None:  # type: ignore[type-arg]
    desk = LeaseDesk(slo_s)
    calls = Expected()
    items = 0

    def made(call: int, timeout_s: float, front: bytes) -> None:
        calls.until[call] = desk.now + timeout_s
        calls.through[call] = front

    def leases() -> list[str]:
        """Every lease that anybody was told of."""
        told = [reply["lease"] for reply in desk.replies.values() if isinstance(reply, dict)]
        return [lease["id"] for lease in told if lease is not None]

    for step in steps:
        match step:
            case ("ask", client, front, timeout_s, expected_s):
                call = desk.ask(client, front, timeout_s=timeout_s, expected_s=expected_s)
                made(call, timeout_s, front)
            case ("return", which, front) if leases():
                made(desk.give_back(leases()[-1 - which % len(leases())], front), 0.0, front)
            case ("renew", which, front, timeout_s) if leases():
                lease = leases()[-1 - which % len(leases())]
                made(desk.give_back(lease, front, {"timeout_s": timeout_s}), timeout_s, front)
            case ("drop", call) if call in calls.until:
                calls.excused.add(call)
                desk.drop(call)
            case ("front gone", front):
                calls.excused |= {call for call, through in calls.through.items() if through == front}
                desk.external.forget_front(front)
                desk.turn()
            case ("pass", seconds):
                desk.advance(seconds)
            case ("item",) if slo_s is not None:
                desk.offer()
                items += 1
        held = [told["holds"] for told in desk.external.overview(desk.now) if told["holds"]]
        assert len(held) == (desk.controller.leases.running is not None), "what is lent is held by one client"
        for call, until in calls.until.items():
            assert call in desk.replies or call in calls.excused or desk.now <= until + 1e-9, "a call was forgotten"
            if call in desk.replies and call not in calls.excused:
                assert desk.replied[call] <= until + 1e-9, "a call was answered too late"
    assert len(set(leases())) == len(leases())

    desk.advance(400.0)
    assert desk.controller.leases.running is None, "the device never came back"
    assert sum(len(batch.items) for batch in desk.batches) == items, "an item was lost behind a lease"
    assert set(calls.until) - calls.excused <= set(desk.replies)
    assert desk.external.overview(desk.now) == [], "a client was remembered for ever"
