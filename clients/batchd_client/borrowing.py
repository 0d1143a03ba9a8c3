"""One client's leases, one after the other, whatever becomes of the daemon meanwhile. Without I/O.

Every way is a generator that yields calls to make and pauses to take, and is sent what a call brought, or thrown the
error that it raised. The drivers stand in lease.py.
"""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from batchd_client.errors import ConnectionFailed, DeadlineExceeded, NotFound, Overloaded, ServerFailed, Unavailable
from batchd_client.exchange import Call, Pause
from batchd_client.lease_calls import LeaseGrant, LeaseRefusal, LeaseReturned, LeaseTerms, ask_lease, return_lease

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
AWAY = (ConnectionFailed, DeadlineExceeded, Unavailable, Overloaded, ServerFailed)
"""What passes: the daemon is being restarted, or cannot take more."""

T = TypeVar("T")
Steps: TypeAlias = Generator[Call[Any] | Pause, Any, T]


class LeaseExpired(UserWarning):
    """A lease was returned so late that the device had been taken back, and others may have used it meanwhile."""


@dataclass(slots=True)
class LeaseRecord:
    """What a client's leases came to. Times in seconds, by the daemon's clock."""

    num_leases: int = 0
    num_expired: int = 0
    held_s: float = 0.0
    waited_s: float = 0.0


@dataclass(slots=True)
class Borrowing:
    """Whether a client has the device, and how it gets it."""

    terms: LeaseTerms
    record: LeaseRecord = field(default_factory=LeaseRecord)
    grant: LeaseGrant | None = None
    """The lease that is held."""
    _rng: random.Random = field(default_factory=random.Random)
    _failures: int = 0  # in a row
    _refusals: int = 0  # in a row

    def borrow(self) -> Steps[None]:
        """Ask until the device is lent. A daemon that is not there is waited for."""
        while True:
            try:
                answer = yield ask_lease(self.terms)
            except AWAY as error:
                yield Pause(self._unreachable(error))
                continue
            self._reached()
            if isinstance(answer, LeaseGrant):
                self._take(answer)
                return
            self._refused(answer)

    def give_back(self) -> Steps[None]:
        """Return the lease that is held; one that cannot be returned expires by itself."""
        grant, self.grant = self._held(), None
        try:
            returned = yield return_lease(grant, None)
        except NotFound:
            self._unknown(grant)
        except AWAY as error:
            log.warning("lease %s could not be returned, it expires by itself: %s", grant.id, error)
        else:
            self._judge(grant, returned)

    def renew(self) -> Steps[None]:
        """Return the lease that is held and get the next one, in one call where all is well."""
        grant, self.grant = self._held(), None
        try:
            returned = yield return_lease(grant, self.terms)
        except NotFound:
            self._unknown(grant)
        except AWAY as error:
            yield Pause(self._unreachable(error))
        else:
            self._judge(grant, returned)
            if returned.lease is not None:
                self._take(returned.lease)
                return
        yield from self.borrow()

    def _held(self) -> LeaseGrant:
        if self.grant is None:
            raise RuntimeError("no lease is held")
        return self.grant

    def _take(self, grant: LeaseGrant) -> None:
        self.grant = grant
        self._refusals = 0
        self.record.num_leases += 1
        self.record.waited_s += grant.waited_s

    def _judge(self, grant: LeaseGrant, returned: LeaseReturned) -> None:
        self.record.held_s += returned.held_s
        if returned.expired:
            self.record.num_expired += 1
            message = (
                f"{self.terms.client} held {grant.id} for {returned.held_s:.3g} s; its limit was {grant.limit_s:.3g} s"
            )
            warnings.warn(LeaseExpired(message), stacklevel=2)

    def _refused(self, refusal: LeaseRefusal) -> None:
        self._refusals += 1
        if self._refusals & (self._refusals - 1) == 0:  # less often the longer it lasts
            waited_s = self._refusals * self.terms.poll_s
            log.warning(
                "%s has waited %.3g s for the device: %s", self.terms.client, waited_s, refusal.denied or "busy"
            )

    def _unknown(self, grant: LeaseGrant) -> None:
        log.warning("the daemon knows nothing of lease %s: it has probably been restarted", grant.id)

    def _unreachable(self, error: Exception) -> float:
        """Say so once; return for how long to wait."""
        if self._failures == 0:
            log.warning("%s waits for the daemon: %s", self.terms.client, error)
        self._failures += 1
        ceiling = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._failures, 10))
        return self._rng.uniform(0.5, 1.0) * ceiling

    def _reached(self) -> None:
        if self._failures:
            log.warning("%s has reached the daemon again, after %d attempts", self.terms.client, self._failures)
        self._failures = 0
