"""How the controller stands, for status pages and metrics."""

from __future__ import annotations

from dataclasses import dataclass

from batchd.item import BatchId
from batchd.leasing.lease_snapshot import LeaseSnapshot
from batchd.served_model import ServedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSnapshot:
    """How one model stands. Times in seconds."""

    name: str
    queued: int
    oldest_age_s: float
    fixed_s: float | None
    """Fitted fixed cost of a batch; None before the first measurement."""
    upper_factor: float
    num_samples: int
    edges: tuple[tuple[int, ...], ...] = ()
    """A learned ladder's edges by dimension; empty for other ladders, and before anything was learned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSnapshot:
    """How the controller stands, for status pages and metrics."""

    models: tuple[ModelSnapshot, ...]
    budget_bytes: int | None
    headroom_bytes: int | None
    running: BatchId | None
    draining: bool
    leases: LeaseSnapshot | None = None
    """How lending to training stands; None where the device is never lent."""


def model_snapshot(model: ServedModel, now: float) -> ModelSnapshot:
    """Return how one model stands."""
    oldest = model.room.oldest()
    coefficients = model.latency.coefficients
    return ModelSnapshot(
        name=model.name,
        queued=len(model.room),
        oldest_age_s=0.0 if oldest is None else now - oldest.item.arrived,
        fixed_s=None if coefficients is None else coefficients[0],
        upper_factor=model.law.upper,
        num_samples=model.latency.num_samples,
        edges=() if model.learned_ladder is None else model.learned_ladder.edges,
    )
