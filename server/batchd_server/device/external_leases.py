"""Lends the device to training loops in other processes: who asks, who has it, and when it is taken back.

Clients are trusted to stop when they say so; one that does not return a lease is not waited for. It must not know of
sockets or the clock: calls and times come in as arguments. The engine's thread owns it.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from batchd.decision import RunMicrobatch
from batchd.item import BatchId
from batchd.leasing.leases import Leases
from batchd.leasing.tenant import Tenant
from batchd.outcome import Completed, Failed, Outcome
from batchd_server.device.external_tenant import IDLE_S, Ask, ExternalTenant
from batchd_server.device.repository import Caller
from batchd_server.errors import BadRequest, NotFound, QueueFull, ServingError, Unavailable
from batchd_server.link.lease_calls import AskCall, DropCall, LeaseAsk, LeaseNext, ReturnCall, read_call

log = logging.getLogger(__name__)

PREFIX = "external:"
"""Of the names under which the controller knows these clients."""
SHORTEST_LIMIT_S = 1.0
LIMIT_FACTOR = 4.0
"""A lease is taken back after so many times what it was expected to last, and no sooner than `SHORTEST_LIMIT_S`."""
PAUSE_S = 1.0
"""A client that asks again sooner than this has not paused."""
MAX_CLIENTS = 64
MAX_ASKS = 64
"""Of one client."""
REMEMBERED = 256
"""Expired leases that are still known when they are returned."""

Reply = Callable[[Caller, Any, ServingError | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """The lease that holds the device."""

    lease: str
    client: str
    weight: float
    batch_id: BatchId
    token: str
    granted: float
    expires: float
    first: bool


class ExternalLeases:
    """The clients, their asks, and the one lease that runs. `leases` is None under a policy that lends nothing."""

    def __init__(self, leases: Leases | None, report: Callable[[Outcome], object], reply: Reply) -> None:
        self._leases = leases
        self._report = report
        self._reply = reply
        self._tenants: dict[str, ExternalTenant] = {}
        self._held: _Held | None = None
        self._expired: OrderedDict[str, _Held] = OrderedDict()
        self._draining = False
        self._wake_at = math.inf

    @property
    def wake_at(self) -> float:
        """When `tick` has something to do, in monotonic seconds."""
        return self._wake_at

    # ---- calls -------------------------------------------------------------------------------------------------------

    def ask(self, caller: Caller, arguments: dict[str, Any], now: float) -> None:
        """Have a client wait for the device.

        Raises:
            ServingError: it cannot be lent to it.
        """
        call = read_call(arguments, AskCall)
        if self._draining:
            raise Unavailable("the server is shutting down", code="draining")
        tenant = self._tenant(call.ask.client, call.ask.weight, now)
        self._enqueue(tenant, _ask(caller, call.token, call.ask, now))

    def give_back(self, caller: Caller, arguments: dict[str, Any], now: float) -> None:
        """End a lease, and where the client asks for the next one, have it wait for that.

        Raises:
            ServingError: there is no such lease, or the next one cannot be asked for.
        """
        call = read_call(arguments, ReturnCall)
        ended, expired = self._ended(call.lease, now)
        told = {"held_s": now - ended.granted, "expired": expired}
        if call.next is None or self._draining:
            self._reply(caller, {**told, "lease": None}, None)
            return
        tenant = self._tenant(ended.client, ended.weight, now)
        self._enqueue(tenant, _ask(caller, call.token, call.next, now, told))

    def drop(self, arguments: dict[str, Any], now: float) -> None:
        """Forget an ask whose client has gone; a lease that was granted to it meanwhile is over.

        Raises:
            BadRequest: the call names no ask.
        """
        token = read_call(arguments, DropCall).token
        self._withdraw(lambda ask: ask.token == token)
        if self._held is not None and self._held.token == token:
            self._close(self._held, now, learn=False)

    def forget_front(self, front: bytes) -> None:
        """Forget what was asked through a front process that has gone. Leases may be returned through others."""
        self._withdraw(lambda ask: ask.caller.front == front)

    def overview(self, now: float) -> list[dict[str, Any]]:
        """Return how every client stands."""
        held = self._held
        return [
            {
                "client": tenant.client,
                "weight": tenant.weight,
                "waiting": len(tenant.asks),
                "holds": None if held is None or held.client != tenant.client else held.lease,
                "num_leases": tenant.num_leases,
                "num_expired": tenant.num_expired,
                "lent_s": known.seconds,
                "rests_s": max(0.0, known.rests_until - now),
            }
            for tenant in self._tenants.values()
            for known in (self._known(tenant),)
        ]

    # ---- the engine's turns ------------------------------------------------------------------------------------------

    def lend(self, decision: RunMicrobatch, now: float) -> None:
        """Tell the first that waits of the client that the controller chose that it has the device."""
        tenant = self._tenants[decision.tenant.removeprefix(PREFIX)]
        first = tenant.num_leases == 0
        ask = tenant.granted()
        expected_s = max(decision.predicted_s or 0.0, tenant.foreseen_s(ask))
        # what seems too long for the slack is lent to find out whether it still is
        probe = expected_s > decision.slack_s
        limit_s = SHORTEST_LIMIT_S if probe else max(SHORTEST_LIMIT_S, LIMIT_FACTOR * expected_s)
        held = self._held = _Held(
            lease=f"lease-{secrets.token_hex(8)}",
            client=tenant.client,
            weight=tenant.weight,
            batch_id=decision.batch_id,
            token=ask.token,
            granted=now,
            expires=now + limit_s,
            first=first,
        )
        self._settle_all()
        lease = {
            "id": held.lease,
            "client": held.client,
            "limit_s": limit_s,
            "predicted_s": decision.predicted_s,
            "waited_s": now - ask.asked,
        }
        self._reply(ask.caller, {**ask.beside, "lease": lease}, None)

    def tick(self, now: float) -> None:
        """Take back what was not returned, answer who has waited long enough, and forget who has gone."""
        if now < self._wake_at:
            return
        held = self._held
        if held is not None and held.expires <= now:
            self._expire(held, now)
        for tenant in tuple(self._tenants.values()):
            while (late := next((ask for ask in tenant.asks if ask.until <= now), None)) is not None:
                tenant.asks.remove(late)
                tenant.seen = now
                self._reply(late.caller, {**late.beside, "lease": None, "denied": self._denied(now)}, None)
            if not tenant.asks and tenant.seen + IDLE_S <= now:
                self._forget(tenant)
        self._settle_all()

    def drain(self) -> None:
        """Lend nothing more; whoever waits is told so."""
        self._draining = True
        for tenant in self._tenants.values():
            while tenant.asks:
                ask = tenant.asks.popleft()
                if ask.beside:
                    self._reply(ask.caller, {**ask.beside, "lease": None}, None)
                else:
                    self._reply(ask.caller, None, Unavailable("the server is shutting down", code="draining"))
        self._settle_all()

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _tenant(self, client: str, weight: float, now: float) -> ExternalTenant:
        leases = self._known_leases()
        tenant = self._tenants.get(client)
        if tenant is None:
            if len(self._tenants) >= MAX_CLIENTS:
                raise QueueFull(f"{MAX_CLIENTS} clients lease the device already", retry_after_s=IDLE_S)
            tenant = self._tenants[client] = ExternalTenant(client, weight, now)
            leases.add(PREFIX + client, weight)
        self._known(tenant).weight = tenant.weight = weight
        tenant.seen = now
        return tenant

    def _enqueue(self, tenant: ExternalTenant, ask: Ask) -> None:
        if len(tenant.asks) >= MAX_ASKS:
            raise QueueFull(f"{MAX_ASKS} calls of {tenant.client!r} wait for the device already")
        tenant.asks.append(ask)
        known = self._known(tenant)
        used = known.used
        self._settle_all()
        if ask.asked - tenant.returned < PAUSE_S:
            known.used = used  # between two batches is no pause: it does not lose what it has saved up

    def _ended(self, lease: str, now: float) -> tuple[_Held, bool]:
        """End a lease that is returned; tell whether that came too late."""
        held = self._held
        if held is not None and held.lease == lease:
            tenant = self._tenants[held.client]
            tenant.overrun_s = 0.0
            tenant.seen = tenant.returned = now
            self._close(held, now, learn=not held.first)  # the first one pays for what only happens once
            return held, False
        late = self._expired.pop(lease, None)
        if late is None:
            raise NotFound(f"there is no lease {lease[:64]!r}: it was returned before, or the daemon has restarted")
        if late.client in self._tenants:
            self._tenants[late.client].overrun_s = now - late.granted
        return late, True

    def _close(self, held: _Held, now: float, *, learn: bool) -> None:
        self._held = None
        seconds = now - held.granted
        self._report(Completed(batch_id=held.batch_id, seconds=seconds, peak_bytes=None, first_of_shape=not learn))
        self._settle_all()

    def _expire(self, held: _Held, now: float) -> None:
        self._held = None
        seconds = now - held.granted
        log.warning("client %s did not return %s within %.3f s: taken back", held.client, held.lease, seconds)
        self._expired[held.lease] = held
        while len(self._expired) > REMEMBERED:
            self._expired.popitem(last=False)
        self._tenants[held.client].num_expired += 1
        self._tenants[held.client].seen = now
        self._report(Failed(batch_id=held.batch_id, seconds=seconds))  # the client rests, longer each time in a row

    def _forget(self, tenant: ExternalTenant) -> None:
        if self._held is None or self._held.client != tenant.client:
            del self._tenants[tenant.client]
            self._known_leases().remove(PREFIX + tenant.client)

    def _withdraw(self, gone: Callable[[Ask], bool]) -> None:
        for tenant in self._tenants.values():
            for ask in [ask for ask in tenant.asks if gone(ask)]:
                tenant.asks.remove(ask)
        self._settle_all()

    def _settle_all(self) -> None:
        """Tell the controller what every client wants now, and find out when to look again."""
        held = self._held
        self._wake_at = math.inf if held is None else held.expires
        for tenant in self._tenants.values():
            self._known_leases().demand(PREFIX + tenant.client, tenant.demand())
            if tenant.asks or held is None or held.client != tenant.client:
                self._wake_at = min(self._wake_at, tenant.next_at())

    def _denied(self, now: float) -> str | None:
        """Why the device was lent to nobody when it was last asked for, as far as is known."""
        if self._held is not None:
            return "lent"
        denied = self._known_leases().snapshot(now).denied
        return None if denied is None else str(denied)

    def _known(self, tenant: ExternalTenant) -> Tenant:
        return self._known_leases().broker.tenants[PREFIX + tenant.client]

    def _known_leases(self) -> Leases:
        if self._leases is None:
            raise BadRequest("the device's policy lends it to nobody: leases need device.policy = 'adaptive'")
        return self._leases


def _ask(
    caller: Caller, token: str, wanted: LeaseAsk | LeaseNext, now: float, beside: dict[str, Any] | None = None
) -> Ask:
    return Ask(
        caller=caller,
        token=token,
        expected_s=wanted.expected_s,
        asked=now,
        until=now + wanted.timeout_s,
        beside=beside or {},
    )
