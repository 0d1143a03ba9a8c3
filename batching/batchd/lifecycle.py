"""The life of an item: one table, from which docs/architecture.md draws its diagram.

Rule 1: a transition that is not in the table is a bug of ours and raises.
Rule 2: this module does not know why a transition happens.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where an item stands."""

    OFFERED = "offered"
    REFUSED = "refused"
    WAITING = "waiting"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    RUNNING = "running"
    FINISHED = "finished"
    IMPOSSIBLE = "impossible"


class Event(StrEnum):
    """What happens to it."""

    ADMIT = "admit"
    REFUSE = "refuse"
    CANCEL = "cancel"
    EXPIRE = "expire"
    LAUNCH = "launch"
    FINISH = "finish"
    OUT_OF_MEMORY = "out of memory"
    OUT_OF_MEMORY_ALONE = "out of memory alone"
    UNLOAD = "model unloaded"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.OFFERED, Event.ADMIT): State.WAITING,
    (State.OFFERED, Event.REFUSE): State.REFUSED,
    (State.WAITING, Event.CANCEL): State.CANCELLED,
    (State.WAITING, Event.EXPIRE): State.EXPIRED,
    (State.WAITING, Event.LAUNCH): State.RUNNING,
    (State.WAITING, Event.UNLOAD): State.CANCELLED,
    (State.RUNNING, Event.FINISH): State.FINISHED,
    (State.RUNNING, Event.CANCEL): State.RUNNING,  # the batch cannot be recalled; its answer is dropped
    (State.RUNNING, Event.OUT_OF_MEMORY): State.WAITING,
    (State.RUNNING, Event.OUT_OF_MEMORY_ALONE): State.IMPOSSIBLE,
}

FINAL: frozenset[State] = frozenset({State.REFUSED, State.CANCELLED, State.EXPIRED, State.FINISHED, State.IMPOSSIBLE})


def advance(state: State, event: Event) -> State:
    """Return the state after `event`.

    Raises:
        AssertionError: the event cannot happen in that state.
    """
    following = TRANSITIONS.get((state, event))
    assert following is not None, f"an item that is {state} cannot {event}"
    return following


def diagram() -> str:
    """Return the table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.OFFERED}"]
    lines += [f"    {state} --> {following}: {event}" for (state, event), following in TRANSITIONS.items()]
    lines += [f"    {state} --> [*]" for state in State if state in FINAL]
    return "\n".join(lines)
