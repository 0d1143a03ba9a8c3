"""One measured run over connections of its own, into a report: the way in for Python programs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from batchd_client.loadtest.connections import Connections
from batchd_client.loadtest.load import ClosedLoad, OpenLoad
from batchd_client.loadtest.payload import Payload, PlannedRequest, plan_requests
from batchd_client.loadtest.precise_loop import run_precisely
from batchd_client.loadtest.questions import model_statistics
from batchd_client.loadtest.report import LoadReport, report_of
from batchd_client.loadtest.runner import Observer, Recording, Send, Stop, closed_loop, open_loop
from batchd_client.loadtest.server_statistics import difference
from batchd_client.loadtest.target import Target


async def measure_open_loop(
    send: Send,
    payloads: Sequence[Payload],
    load: OpenLoad,
    *,
    observer: Observer | None = None,
    stop: Stop | None = None,
) -> Recording:
    """Draw a schedule and payloads from the load's seed, and send."""
    rng = np.random.default_rng(load.seed)
    times, span_s = load.schedule(rng)
    plan = plan_requests(times, payloads, rng, deadline_s=load.deadline_s)
    return await open_loop(send, plan, span_s=span_s, measured_from=load.warmup_s, observer=observer, stop=stop)


def run_open_loop(
    target: Target,
    payloads: Sequence[Payload],
    load: OpenLoad,
    *,
    slo_s: float | None = None,
    model: str | None = None,
    observer: Observer | None = None,
) -> LoadReport:
    """Send whatever the server does; latency counts from the scheduled arrival.

    `model` names the model whose statistics are compared before and after. `observer` sees every sample as it comes.

    Raises:
        ValueError: where there is no payload.
    """

    async def run(send: Send) -> Recording:
        return await measure_open_loop(send, payloads, load, observer=observer)

    return run_precisely(_measured(target, run, mode="open", slo_s=slo_s, model=model, rate=load.rate))


def run_closed_loop(
    target: Target,
    payloads: Sequence[Payload],
    load: ClosedLoad,
    *,
    slo_s: float | None = None,
    model: str | None = None,
    observer: Observer | None = None,
) -> LoadReport:
    """Let users send one request after the other: measures capacity, and hides queueing.

    Raises:
        ValueError: where there is no payload.
    """

    async def run(send: Send) -> Recording:
        return await closed_loop(send, payloads, load, observer=observer)

    return run_precisely(_measured(target, run, mode="closed", slo_s=slo_s, model=model))


def run_plan(
    target: Target,
    plan: Sequence[PlannedRequest],
    *,
    slo_s: float | None = None,
    model: str | None = None,
    observer: Observer | None = None,
) -> LoadReport:
    """Send a plan of your own, or a trace's: each request when it is due."""

    async def run(send: Send) -> Recording:
        return await open_loop(send, plan, span_s=plan_span_s(plan), observer=observer)

    return run_precisely(_measured(target, run, mode="trace", slo_s=slo_s, model=model))


def plan_span_s(plan: Sequence[PlannedRequest]) -> float:
    """Return the seconds that a plan covers: up to its last arrival, plus a mean gap."""
    if not plan:
        return 0.0
    last = plan[-1].at
    return last * len(plan) / (len(plan) - 1) if len(plan) > 1 and last > 0 else max(last, 1e-3)


async def _measured(
    target: Target,
    run: Callable[[Send], Awaitable[Recording]],
    *,
    mode: str,
    slo_s: float | None,
    model: str | None,
    rate: float | None = None,
) -> LoadReport:
    before = None if model is None else await model_statistics(target, model)
    async with Connections(target) as connections:
        recording = await run(connections.send)
    after = None if model is None or before is None else await model_statistics(target, model)
    return report_of(recording, mode=mode, slo_s=slo_s, rate=rate, statistics=difference(before, after))
