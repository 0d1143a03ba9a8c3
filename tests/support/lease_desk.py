"""The device process's side of external leases with the real controller, and time that only the test moves."""

from __future__ import annotations

import math
from typing import Any

from batchd import Completed, Controller, Item, ItemId, ModelPolicy, RunBatch
from batchd.decision import Admitted, Expire, RunMicrobatch, Wait
from batchd_server.device.external_leases import ExternalLeases
from batchd_server.device.repository import Caller
from batchd_server.errors import ServingError

FRONT = b"front"


class LeaseDesk:
    """Turns as the engine takes them: whenever something comes, and at the times that it is asked to wake."""

    def __init__(self, slo_s: float | None = None) -> None:
        self.now = 1000.0
        self.controller = Controller()
        if slo_s is not None:
            self.controller.add_model("m", ModelPolicy(slo_s=slo_s))
        self.external = ExternalLeases(self.controller.leases, self.controller.report, self._reply)
        self.replies: dict[int, Any] = {}
        self.replied: dict[int, float] = {}
        self.batches: list[RunBatch] = []
        self.wake_at = math.inf
        self._calls = self._items = 0

    def _reply(self, caller: Caller, result: Any, error: ServingError | None) -> None:
        assert caller.call not in self.replies, "a call was answered twice"
        self.replies[caller.call] = result if error is None else error
        self.replied[caller.call] = self.now

    def call(self, action: Any, front: bytes = FRONT, **arguments: Any) -> int:
        """Make a control call; return its number, which is its token as well."""
        self._calls += 1
        caller = Caller(front, self._calls)
        try:
            action(caller, {"token": str(self._calls), **arguments}, self.now)
        except ServingError as error:
            self._reply(caller, None, error)
        self.turn()
        return self._calls

    def ask(self, client: str = "a", front: bytes = FRONT, **wanted: Any) -> int:
        return self.call(self.external.ask, front, ask={"client": client, **wanted})

    def give_back(self, lease: str, front: bytes = FRONT, following: dict[str, Any] | None = None) -> int:
        return self.call(self.external.give_back, front, lease=lease, next=following)

    def drop(self, call: int) -> None:
        self.external.drop({"token": str(call)}, self.now)
        self.turn()

    def lease(self, client: str = "a", **wanted: Any) -> dict[str, Any]:
        """Ask for a lease that must be granted at once."""
        lease: dict[str, Any] = self.replies[self.ask(client, **wanted)]["lease"]
        return lease

    def held_for(self, seconds: float, client: str = "a", **wanted: Any) -> dict[str, Any]:
        """Take a lease and return it `seconds` later; give what the return is told."""
        lease = self.lease(client, **wanted)
        self.advance(seconds)
        told: dict[str, Any] = self.replies[self.give_back(lease["id"])]
        return told

    def offer(self) -> None:
        """Have an item come for the model."""
        self._items += 1
        deadline = self.now + 60.0
        item = Item(id=ItemId(self._items), model="m", shape=(8,), arrived=self.now, deadline=deadline)
        assert isinstance(self.controller.offer(item, self.now), Admitted)
        self.turn()

    def turn(self) -> None:
        """What the engine does after everything that comes; batches take no time."""
        self.external.tick(self.now)
        while True:
            match self.controller.next(self.now):
                case RunMicrobatch() as decision:
                    self.external.lend(decision, self.now)
                case RunBatch() as batch:
                    self.batches.append(batch)
                    self.controller.report(Completed(batch_id=batch.batch_id, seconds=0.001, peak_bytes=None))
                case Expire():
                    continue
                case Wait(until=until):
                    self.wake_at = min(until, self.external.wake_at)
                    return

    def advance(self, seconds: float) -> None:
        """Let time pass, waking only when that was asked for."""
        end = self.now + seconds
        while self.wake_at <= end:
            assert self.wake_at >= self.now, "it asked to wake in the past: the engine would spin"
            moved = self.wake_at > self.now
            self.now = self.wake_at
            self.turn()
            assert moved or self.wake_at > self.now, "it asked to wake at once, again and again"
        self.now = end
