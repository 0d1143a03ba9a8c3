"""What the demonstration's training came to: records of a model that learned while it answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from batchd_client.loadtest import LoadReport


@dataclass(frozen=True, slots=True)
class Tally:
    """Digits that were asked for, and how many of them were read rightly."""

    digits: int = 0
    right: int = 0

    def __add__(self, other: Self) -> Tally:
        return Tally(self.digits + other.digits, self.right + other.right)

    def __sub__(self, other: Self) -> Tally:
        return Tally(self.digits - other.digits, self.right - other.right)

    @property
    def accuracy(self) -> float | None:
        """Share of digits read rightly; None where there were none."""
        return self.right / self.digits if self.digits else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """One line of the timeline. Seconds; what is not known is None."""

    ends: float  # since the traffic's start
    step: int
    batch_size: int | None
    validation: float | None  # accuracy of the latest validation
    served: float | None  # accuracy of the interval's answers
    p99: float | None  # of the interval's answers
    share: float  # of the device, that training had
    denied: str | None  # why it does not have it, at the interval's end


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """Weights that went into service."""

    at: float  # seconds since the traffic's start
    step: int
    validation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """The whole of it."""

    traffic: LoadReport
    timeline: Sequence[Interval]
    promotions: Sequence[Promotion]
    before: float | None  # served accuracy before the job
    after: float | None  # served accuracy after the last promotion
    seconds: float  # from the job's submission to the last promotion, or until time was up
    share: float | None  # of the device, that training had in these; None where the job ended by itself
    problem: str | None

    @property
    def failed(self) -> int:
        """Requests without a good answer."""
        return self.traffic.offered - self.traffic.succeeded

    def shortfall(self, min_accuracy: float) -> str | None:
        """Return what should have been shown and was not; None where all of it was."""
        if self.problem is not None:
            return self.problem
        if self.failed:
            return f"{self.failed} of {self.traffic.offered} requests failed: {self.traffic.commonest_failure}"
        if self.after is None or self.after < min_accuracy:
            return f"only {self.after or 0.0:.1%} of the digits were read rightly after it"
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "served_accuracy": {"before": self.before, "after": self.after},
            "seconds": self.seconds,
            "device_share": self.share,
            "failed_requests": self.failed,
            "problem": self.problem,
            "promotions": [asdict(promotion) for promotion in self.promotions],
            "timeline": [asdict(interval) for interval in self.timeline],
            "traffic": self.traffic.to_dict(),
        }
