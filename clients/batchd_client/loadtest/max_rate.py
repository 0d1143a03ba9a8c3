"""The highest rate whose p99 holds: trials on the real server, guided by `rate_search`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias

from batchd_client.loadtest.arrivals import POISSON, Arrivals
from batchd_client.loadtest.load import ClosedLoad, OpenLoad
from batchd_client.loadtest.measurement import measure_open_loop
from batchd_client.loadtest.payload import Payload
from batchd_client.loadtest.rate_search import RateSearch, Trial
from batchd_client.loadtest.report import LoadReport, report_of
from batchd_client.loadtest.runner import Observer, Send, closed_loop
from batchd_client.loadtest.sample import Sample

REQUESTS_PER_TRIAL = 1000
"""Ten answers then lie beyond the p99; 459 is the least with which 99 % confidence can be had at all."""

TRIAL_S = 5.0
MAX_FAILED = 0.01
PROBE_USERS = 32
PROBE_S = 3.0
_SETTLE_TRIES = 200

Watch: TypeAlias = Callable[[float, float], AbstractAsyncContextManager[Observer | None]]
"""Shows a trial while it runs: takes the rate and the seconds it will last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateTrial:
    """One rate, tried on the server."""

    rate: float
    count: int  # requests planned
    passed: bool
    reason: str
    report: LoadReport


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxRateReport:
    """All trials, and the highest rate that held with no failure at or below it."""

    slo_s: float
    trials: tuple[RateTrial, ...]
    best: RateTrial | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialPlan:
    """How each trial is run: at least `min_count` requests and at least `min_s` seconds, after a warm-up."""

    slo_s: float
    min_count: int = REQUESTS_PER_TRIAL
    min_s: float = TRIAL_S
    warmup_s: float = 1.0
    arrivals: Arrivals = POISSON
    deadline_s: float | None = None
    seed: int = 0

    def count(self, rate: float) -> int:
        """Return the measured requests of a trial at `rate`."""
        return max(self.min_count, math.ceil(rate * self.min_s))

    def load(self, rate: float, number: int) -> OpenLoad:
        """Return the load of the trial `number`, which has arrivals of its own."""
        return OpenLoad(
            rate=rate,
            count=self.count(rate),
            arrivals=self.arrivals,
            warmup_s=self.warmup_s,
            deadline_s=self.deadline_s,
            seed=self.seed + number,
        )


def verdict(report: LoadReport, slo_s: float) -> tuple[bool, str]:
    """Return whether a run holds the SLO, and why or why not."""
    if report.stopped_early:
        misses = len(report.samples) - report.good
        return False, f"broken off: {misses} of the first {len(report.samples)} late or failed"
    if report.failed_fraction > MAX_FAILED:
        return False, f"{report.failed_fraction:.1%} failed or refused"
    if report.response is None:
        return False, "nothing was answered"
    if report.response.p99 > slo_s:
        return False, f"p99 {report.response.p99 * 1e3:.1f} ms"
    return True, f"p99 {report.response.p99 * 1e3:.1f} ms"


class Hopeless:
    """Says when a trial can no longer pass, so that an overloaded server is not flooded to the end."""

    def __init__(self, count: int, slo_s: float) -> None:
        self._allowed = math.floor(count * MAX_FAILED) + 1
        self._slo_s = slo_s
        self._late = self._failed = 0

    def __call__(self, sample: Sample) -> bool:
        """Count a sample; True once more are late, or more have failed, than a passing trial may have."""
        if not sample.ok:
            self._failed += 1
        elif sample.response_s > self._slo_s:
            self._late += 1
        return self._late > self._allowed or self._failed > self._allowed


async def probe_capacity(
    send: Send, payloads: Sequence[Payload], *, duration_s: float = PROBE_S, observer: Observer | None = None
) -> float:
    """Return the requests per second that a closed loop gets through: where the search starts from."""
    load = ClosedLoad(concurrency=PROBE_USERS, duration_s=duration_s)
    recording = await closed_loop(send, payloads, load, observer=observer)
    return sum(sample.ok for sample in recording.samples) / recording.wall_s


async def search_max_rate(
    send: Send,
    payloads: Sequence[Payload],
    *,
    plan: TrialPlan,
    search: RateSearch,
    watch: Watch | None = None,
    on_trial: Callable[[RateTrial], None] | None = None,
) -> MaxRateReport:
    """Run trials until the search is over."""
    trials: list[RateTrial] = []
    history: list[Trial] = []
    while (rate := search.next_rate(history)) is not None:
        count = plan.count(rate)
        shown = nullcontext() if watch is None else watch(rate, plan.warmup_s + count / rate)
        async with shown as observer:
            recording = await measure_open_loop(
                send,
                payloads,
                plan.load(rate, len(trials)),
                observer=observer,
                stop=Hopeless(count, plan.slo_s),
            )
        report = report_of(recording, mode="open", slo_s=plan.slo_s, rate=rate)
        passed, reason = verdict(report, plan.slo_s)
        trial = RateTrial(rate=rate, count=count, passed=passed, reason=reason, report=report)
        trials.append(trial)
        history.append(Trial(rate, passed))
        if on_trial is not None:
            on_trial(trial)
        if not passed:
            await _settle(send, payloads[0], plan.slo_s)
    best_rate, _ = search.bracket(history)
    best = next((trial for trial in trials if trial.rate == best_rate and trial.passed), None)
    return MaxRateReport(slo_s=plan.slo_s, trials=tuple(trials), best=best)


async def _settle(send: Send, payload: Payload, slo_s: float) -> None:
    """Wait until one request alone is answered in time again: an overload must not reach into the next trial."""
    for _ in range(_SETTLE_TRIES):
        exchange = await send(payload)
        if exchange.ok and exchange.done - exchange.sent <= slo_s:
            return
