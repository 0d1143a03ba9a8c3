"""What is sent: requests encoded once, before the clock runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from batchd_client.loadtest.arrivals import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Payload:
    """One ready-made POST. Compared by identity, so that connections can keep what they prepare for it."""

    path: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes
    size: int  # length of the variable axes; 0 where nothing varies
    items: int = 1


class PayloadFactory(Protocol):
    """Makes requests of one model."""

    def make(
        self, rng: np.random.Generator, *, size: int | None = None, items: int = 1, deadline_s: float | None = None
    ) -> Payload:
        """Encode a request; a `size` of None is drawn from the factory's own distribution."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRequest:
    """A request that is due `at` seconds after the start."""

    at: float
    payload: Payload
    deadline_s: float | None = None
    """Answered later than this after `at`, it does not count as goodput; None = the run's SLO."""


def payload_pool(
    factory: PayloadFactory,
    rng: np.random.Generator,
    *,
    count: int = 512,
    items: int = 1,
    deadline_s: float | None = None,
    max_bytes: int = 128 * 2**20,
) -> tuple[Payload, ...]:
    """Encode up to `count` requests, stopping early (after at least one) once they take `max_bytes` together."""
    pool: list[Payload] = []
    total = 0
    while len(pool) < count and (not pool or total < max_bytes):
        payload = factory.make(rng, items=items, deadline_s=deadline_s)
        total += len(payload.body)
        pool.append(payload)
    return tuple(pool)


def plan_requests(
    times: FloatArray, payloads: Sequence[Payload], rng: np.random.Generator, *, deadline_s: float | None = None
) -> tuple[PlannedRequest, ...]:
    """Give every arrival a payload, drawn uniformly with replacement.

    Raises:
        ValueError: where there is no payload.
    """
    if not payloads:
        raise ValueError("no payloads to send")
    chosen = rng.integers(0, len(payloads), len(times))
    return tuple(
        PlannedRequest(at=float(at), payload=payloads[int(index)], deadline_s=deadline_s)
        for at, index in zip(times, chosen, strict=True)
    )
