"""What was decided, why, and what came of it: one record per batch, the latest few thousand kept."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass
from typing import Any, Literal

from batchd.decision import ReleaseReason
from batchd.item import Shape

MAX_RECORDS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """One batch, as predicted and as it went."""

    launched: float  # monotonic seconds
    batch_id: int
    model: str
    batch_size: int
    padded_shape: Shape | None  # None: the items lay end to end
    padding_ratio: float
    reason: ReleaseReason
    queued_after: int
    oldest_wait_s: float
    predicted_s: float | None
    actual_s: float | None  # None unless the batch completed
    predicted_bytes: int | None
    peak_bytes: int | None
    outcome: Literal["completed", "out_of_memory", "failed"]


class DecisionLog:
    """A ring of the latest records."""

    def __init__(self, capacity: int = MAX_RECORDS) -> None:
        self._records: deque[DecisionRecord] = deque(maxlen=capacity)

    def append(self, record: DecisionRecord) -> None:
        """Keep `record`, and forget the oldest one where the ring is full."""
        self._records.append(record)

    def latest(self, limit: int, model: str | None = None) -> list[dict[str, Any]]:
        """Return up to `limit` records as JSON-able values, newest first; of one model if named."""
        chosen = (record for record in reversed(self._records) if model is None or record.model == model)
        return [asdict(record) for record, _ in zip(chosen, range(limit), strict=False)]
