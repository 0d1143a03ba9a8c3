"""One call per thing that happened; metrics, statistics and the decision log are kept from it.

Called on the engine's thread only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, assert_never

from prometheus_client import Histogram

from batchd.decision import RefusalReason, RunBatch
from batchd.outcome import Completed, Failed, OutOfMemory
from batchd_server.device.work import BatchDone
from batchd_server.observe.decision_record import DecisionLog, DecisionRecord
from batchd_server.observe.metrics import Metrics
from batchd_server.observe.model_statistics import ModelStatistics

INFERENCE = "infer"


class Instruments:
    """What the daemon tells about itself."""

    def __init__(self, metrics: Metrics, statistics: dict[str, ModelStatistics]) -> None:
        self.metrics = metrics
        self.statistics = statistics
        self.decisions = DecisionLog()
        self._item_series: dict[str, tuple[Histogram, ...]] = {}  # looking labels up costs more than observing

    def requests_observed(self, rows: Iterable[tuple[str, str, str, float, float]]) -> None:
        """Take over what a front process saw: (model, api, outcome, duration_s, overhead_s)."""
        requests = self.metrics.requests
        for name, api, outcome, duration_s, overhead_s in rows:
            requests.requests.labels(name, api, outcome).inc()
            requests.duration.labels(name).observe(duration_s)
            requests.overhead.labels(name).observe(overhead_s)

    def connections_ended(self, ended: Mapping[str, int]) -> None:
        """Take over the connections that a front process has ended, counted by the limit that they met."""
        for limit, number in ended.items():
            self.metrics.requests.connections_ended.labels(limit).inc(number)

    def item_refused(self, model: str, reason: RefusalReason) -> None:
        """Count an item that was not admitted."""
        self.metrics.requests.refused.labels(model, reason.value).inc()

    def item_expired(self, model: str) -> None:
        """Count an item whose deadline passed while it waited."""
        self.metrics.requests.expired.labels(model).inc()

    def item_answered(self, model: str, *, queue_s: float, compute_s: float, slack_s: float) -> None:
        """Count an item that was computed."""
        series = self._item_series.get(model)
        if series is None:
            requests = self.metrics.requests
            series = tuple(family.labels(model) for family in (requests.queue, requests.compute, requests.slack))
            self._item_series[model] = series
        for histogram, seconds in zip(series, (queue_s, compute_s, slack_s), strict=True):
            histogram.observe(seconds)
        self.statistics[model].queue.add(queue_s)

    def request_over(self, model: str, *, succeeded: bool, in_time: bool, seconds: float) -> None:
        """Count a request, all of whose items are settled."""
        statistics = self.statistics[model]
        (statistics.success if succeeded else statistics.fail).add(seconds)
        if succeeded:
            self.metrics.requests.slo.labels(model, "true" if in_time else "false").inc()

    def batch_launched(self, decision: RunBatch, oldest_wait_s: float) -> None:
        """Count a batch that goes to the device."""
        batches = self.metrics.batches
        batches.batches.labels(decision.model, decision.reason.value).inc()
        batches.size.labels(decision.model).observe(len(decision.items))
        batches.wait.labels(decision.model).observe(oldest_wait_s)
        batches.padding.labels(decision.model).observe(decision.padding_ratio)
        padding = round(decision.elements * decision.padding_ratio)
        batches.elements.labels(decision.model, "data").inc(decision.elements - padding)
        batches.elements.labels(decision.model, "padding").inc(padding)

    def batch_over(self, decision: RunBatch, done: BatchDone, oldest_wait_s: float, requeued: Sequence[int]) -> None:
        """Count how a batch went, and record the decision with it."""
        batches = self.metrics.batches
        outcome: Literal["completed", "out_of_memory", "failed"]
        actual_s: float | None = None
        peak_bytes: int | None = None
        match done.outcome:
            case Completed() as completed:
                outcome = "completed"
                actual_s, peak_bytes = completed.seconds, completed.peak_bytes
                self._completed(decision, done, completed)
            case OutOfMemory() as out_of_memory:
                outcome = "out_of_memory"
                peak_bytes = out_of_memory.peak_bytes
                batches.oom.labels(decision.model, INFERENCE).inc()
                if requeued:
                    batches.oom_recovered.labels(decision.model, INFERENCE).inc()
            case Failed():
                outcome = "failed"
                batches.failures.labels(decision.model).inc()
            case _:
                assert_never(done.outcome)
        self.decisions.append(
            DecisionRecord(
                launched=done.started,
                batch_id=decision.batch_id,
                model=decision.model,
                batch_size=len(decision.items),
                padded_shape=decision.padded_shape,
                padding_ratio=decision.padding_ratio,
                reason=decision.reason,
                queued_after=decision.queued_after,
                oldest_wait_s=oldest_wait_s,
                predicted_s=decision.predicted_s,
                actual_s=actual_s,
                predicted_bytes=decision.predicted_bytes,
                peak_bytes=peak_bytes,
                outcome=outcome,
            )
        )

    def _completed(self, decision: RunBatch, done: BatchDone, completed: Completed) -> None:
        batches = self.metrics.batches
        batches.execution.labels(decision.model).observe(completed.seconds)
        if decision.predicted_s is not None:
            batches.latency_error.labels(decision.model).observe(decision.predicted_s - completed.seconds)
        if decision.predicted_bytes is not None and completed.peak_bytes is not None:
            batches.memory_error.labels(decision.model).observe(decision.predicted_bytes - completed.peak_bytes)
        stages = done.stages
        if stages is not None:
            self.statistics[decision.model].count_batch(
                len(decision.items), stages.collate_s, stages.run_s, stages.split_s
            )
