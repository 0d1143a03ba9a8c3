"""What a load test found, in seconds and requests per second; `to_dict` gives the milliseconds of the JSON report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batchd_client.loadtest.quantiles import Quantiles, quantiles
from batchd_client.loadtest.runner import Recording
from batchd_client.loadtest.sample import Sample
from batchd_client.loadtest.server_statistics import ServerStatistics

LAG_LIMIT_S = 0.001
LAG_LIMIT_OF_SLO = 0.05
CPU_LIMIT = 0.9
_REFUSALS = ("429", "503")
P99_MIN_COUNT = 459
"""Below this, a p99 cannot be shown with 99 % confidence even without one miss (binomial)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenBatches:
    """The batches as the requests saw them: a batch of 8 counts 8 times, so the mean lies above the server's own."""

    count: int
    mean_size: float | None
    sizes: Mapping[int, int]  # requests by batch size
    queue: Quantiles | None
    compute: Quantiles | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """One run, or one step of several. Warm-up is not in it."""

    mode: str  # "open", "closed", "trace"
    slo_s: float | None
    offered: int
    span_s: float
    wall_s: float
    samples: tuple[Sample, ...]
    response: Quantiles | None  # of successful requests, from the scheduled arrival
    service: Quantiles | None  # of successful requests, from the actual send
    lag: Quantiles | None  # of all requests
    outcomes: Mapping[str, int]
    succeeded: int
    answered: int
    good: int
    batches: SeenBatches
    cpu_share: float | None
    max_in_flight: int
    connection_waits: int
    stopped_early: bool
    rate: float | None = None  # asked for; `offered_rate` is what the schedule came to
    statistics: ServerStatistics | None = None
    refused: Quantiles | None = None  # of what was refused for now (429, 503), from the scheduled arrival
    told_when: int = 0  # of these, how many were told when to come again

    @property
    def offered_rate(self) -> float:
        """Requests per second that were due."""
        return self.offered / self.span_s if self.span_s > 0 else 0.0

    @property
    def sent_rate(self) -> float:
        """Requests per second that were sent, over the time it took to send them."""
        first = min((sample.scheduled for sample in self.samples), default=0.0)
        last = max((sample.sent for sample in self.samples), default=0.0)
        return len(self.samples) / max(self.span_s, last - first) if self.span_s > 0 else 0.0

    @property
    def completed_rate(self) -> float:
        """Successful answers per second, until the last one was in."""
        return self.succeeded / self.wall_s

    @property
    def goodput(self) -> float:
        """Answers within their deadline (else the SLO, else all successful) per second."""
        return self.good / self.wall_s

    @property
    def failed_fraction(self) -> float:
        """Share of the requests that were refused, failed or lost."""
        return (len(self.samples) - self.succeeded) / len(self.samples) if self.samples else 1.0

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes these numbers less than they seem."""
        found: list[str] = []
        limit = max(LAG_LIMIT_S, LAG_LIMIT_OF_SLO * (self.slo_s or 0.0))
        if self.connection_waits:
            found.append(
                f"{self.connection_waits} requests waited for a free connection before they were sent: "
                "raise --max-connections, or the server is far behind"
            )
        elif self.mode != "closed" and self.lag is not None and self.lag.p99 > limit:
            found.append(
                f"the generator could not keep up: it sent {self.lag.p99 * 1e3:.2f} ms late at p99 "
                f"(limit {limit * 1e3:.2f} ms); latencies above are partly its own"
            )
        if self.cpu_share is not None and self.cpu_share > CPU_LIMIT:
            found.append(
                f"the generator kept its core {self.cpu_share:.0%} busy: it, not the server, may be what was measured"
            )
        if self.response is not None and self.response.count < P99_MIN_COUNT:
            found.append(
                f"{self.response.count} answers are too few for a p99: take at least {P99_MIN_COUNT} (better 1000)"
            )
        return tuple(found)

    @property
    def generator_limited(self) -> bool:
        """Whether the generator, not the server, may have set the numbers."""
        return any("generator" in warning for warning in self.warnings)

    @property
    def commonest_failure(self) -> str | None:
        """One line about the most frequent failure; None where nothing failed."""
        failures = [sample for sample in self.samples if not sample.ok]
        if not failures:
            return None
        outcome, count = Counter(sample.outcome for sample in failures).most_common(1)[0]
        message = next((sample.message for sample in failures if sample.outcome == outcome and sample.message), "")
        return f"{outcome} ({count} times){': ' + message if message else ''}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: durations in milliseconds, without the single samples."""
        return {
            "mode": self.mode,
            "rate": self.rate,
            "slo_ms": None if self.slo_s is None else self.slo_s * 1e3,
            "duration_s": self.span_s,
            "wall_s": self.wall_s,
            "requests": {"offered": self.offered, "sent": len(self.samples), "succeeded": self.succeeded},
            "rates": {
                "offered_per_s": self.offered_rate,
                "sent_per_s": self.sent_rate,
                "completed_per_s": self.completed_rate,
                "goodput_per_s": self.goodput,
            },
            "failed_fraction": self.failed_fraction,
            "response": _in_ms(self.response),
            "service": _in_ms(self.service),
            "refused": None
            if self.refused is None
            else {"count": self.refused.count, "told_when": self.told_when} | self.refused.in_ms(),
            "outcomes": dict(self.outcomes),
            "batches_seen": {
                "requests": self.batches.count,
                "mean_size": self.batches.mean_size,
                "sizes": {str(size): count for size, count in self.batches.sizes.items()},
                "queue": _in_ms(self.batches.queue),
                "compute": _in_ms(self.batches.compute),
            },
            "server_statistics": None if self.statistics is None else self.statistics.to_dict(),
            "generator": {
                "lag": _in_ms(self.lag),
                "cpu_share": self.cpu_share,
                "max_in_flight": self.max_in_flight,
                "connection_waits": self.connection_waits,
                "limited": self.generator_limited,
            },
            "stopped_early": self.stopped_early,
            "warnings": list(self.warnings),
        }


def _in_ms(summary: Quantiles | None) -> dict[str, float] | None:
    return None if summary is None else summary.in_ms()


def report_of(
    recording: Recording,
    *,
    mode: str,
    slo_s: float | None,
    rate: float | None = None,
    statistics: ServerStatistics | None = None,
) -> LoadReport:
    """Summarise a recording."""
    samples = tuple(recording.samples)
    succeeded = [sample for sample in samples if sample.ok]
    refused = [sample for sample in samples if sample.outcome.startswith(_REFUSALS)]
    return LoadReport(
        mode=mode,
        slo_s=slo_s,
        offered=recording.offered,
        span_s=recording.span_s,
        wall_s=recording.wall_s,
        samples=samples,
        response=quantiles(sample.response_s for sample in succeeded),
        service=quantiles(sample.service_s for sample in succeeded),
        lag=quantiles(sample.lag_s for sample in samples),
        outcomes=dict(Counter(sample.outcome for sample in samples).most_common()),
        succeeded=len(succeeded),
        answered=sum(sample.answered for sample in samples),
        good=sum(is_good(sample, slo_s) for sample in succeeded),
        batches=_seen(succeeded),
        cpu_share=recording.cpu_share,
        max_in_flight=recording.max_in_flight,
        connection_waits=sum(sample.waited_for_connection for sample in samples),
        stopped_early=recording.stopped_early,
        rate=rate,
        statistics=statistics,
        refused=quantiles(sample.response_s for sample in refused),
        told_when=sum(sample.retry_after_s is not None for sample in refused),
    )


def is_good(sample: Sample, slo_s: float | None) -> bool:
    """Return whether a request was answered within its own deadline, else within the SLO."""
    limit = sample.deadline_s if sample.deadline_s is not None else slo_s
    return sample.ok and (limit is None or sample.response_s <= limit)


def _seen(samples: Sequence[Sample]) -> SeenBatches:
    sizes = [sample.timing.batch_size for sample in samples if sample.timing.batch_size is not None]
    return SeenBatches(
        count=len(sizes),
        mean_size=sum(sizes) / len(sizes) if sizes else None,
        sizes=dict(sorted(Counter(round(size) for size in sizes).items())),
        queue=quantiles(sample.timing.queue_s for sample in samples if sample.timing.queue_s is not None),
        compute=quantiles(sample.timing.compute_s for sample in samples if sample.timing.compute_s is not None),
    )
