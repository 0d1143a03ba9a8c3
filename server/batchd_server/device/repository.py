"""The configured models and their states: UNAVAILABLE, LOADING, READY, UNLOADING; and who waits for a change.

It must not know how a model is loaded or run: the engine moves the states along.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from batchd_server.device.work import Loaded, PredictedPeak
from batchd_server.link.messages import ModelState

State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]

TRANSITIONS: frozenset[tuple[State, State]] = frozenset(
    {
        ("UNAVAILABLE", "LOADING"),
        ("LOADING", "READY"),
        ("LOADING", "UNAVAILABLE"),
        ("READY", "UNLOADING"),
        ("UNLOADING", "UNAVAILABLE"),
    }
)


@dataclass(frozen=True, slots=True)
class Caller:
    """A control call that is answered once the model's state has settled."""

    front: bytes
    call: int


@dataclass(slots=True, kw_only=True)
class Entry:
    """One configured model."""

    name: str
    wanted: bool
    """Whether the server is ready only once this model is."""
    state: State = "UNAVAILABLE"
    reason: str = ""
    failing: str = ""
    """Why a READY model is out of service: its runs fail. It stays loaded, and is shown as UNAVAILABLE meanwhile."""
    loaded: Loaded | None = None
    predicted: tuple[PredictedPeak, ...] = ()
    """What its batches are thought to take; kept with what is learned."""
    callers: list[Caller] = field(default_factory=list)

    @property
    def shown(self) -> State:
        """What the world is told."""
        return "UNAVAILABLE" if self.failing else self.state


class Repository:
    """Every configured model, by name."""

    def __init__(self, wanted: Iterable[tuple[str, bool]]) -> None:
        self._entries = {name: Entry(name=name, wanted=load) for name, load in wanted}

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def names(self) -> tuple[str, ...]:
        """Return the configured models."""
        return tuple(self._entries)

    def move(self, name: str, state: State, reason: str = "") -> Entry:
        """Put a model into its next state and return it."""
        entry = self._entries[name]
        assert (entry.state, state) in TRANSITIONS, f"model {name} cannot go from {entry.state} to {state}"
        entry.state = state
        entry.reason = reason
        entry.failing = ""
        return entry

    @property
    def ready(self) -> bool:
        """Whether every wanted model serves."""
        return all(entry.shown == "READY" for entry in self._entries.values() if entry.wanted)

    def states(self) -> tuple[ModelState, ...]:
        """Return what fronts are told."""
        return tuple(
            ModelState(
                name=entry.name,
                state=entry.shown,
                reason=entry.failing or entry.reason,
                slo_s=0.0 if entry.loaded is None else entry.loaded.policy.slo_s,
            )
            for entry in self._entries.values()
        )
