"""The five kinds of load, from options to reports."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import numpy as np
from rich.console import Console

from batchd_client.errors import BatchdError
from batchd_client.loadtest import render
from batchd_client.loadtest.arrivals import parse_arrivals
from batchd_client.loadtest.factories import payload_factory
from batchd_client.loadtest.load import ClosedLoad, OpenLoad
from batchd_client.loadtest.max_rate import PROBE_S, TRIAL_S, MaxRateReport, TrialPlan, probe_capacity, search_max_rate
from batchd_client.loadtest.measurement import measure_open_loop, plan_span_s
from batchd_client.loadtest.options import DEFAULT_RATE, LoadTestOptions, Mode
from batchd_client.loadtest.payload import Payload, PayloadFactory, PlannedRequest, payload_pool
from batchd_client.loadtest.progress import shown
from batchd_client.loadtest.rate_search import RateSearch
from batchd_client.loadtest.recorded_trace import plan_trace, read_trace
from batchd_client.loadtest.report import LoadReport, report_of
from batchd_client.loadtest.runner import Observer, Send, closed_loop, open_loop
from batchd_client.loadtest.tensor_payloads import TensorPayloads

_OVERLOAD = ("429", "503", "504")


class RefusedAtOnce(BatchdError):
    """The first request alone failed: a run of them would only repeat it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All runs of a load test, and the search's result where there was one."""

    reports: tuple[LoadReport, ...]
    max_rate: MaxRateReport | None = None


async def run_mode(options: LoadTestOptions, model: str, send: Send, out: Console, err: Console) -> Outcome:
    """Prepare the payloads, check that one request is answered, and run.

    Raises:
        ValueError: options and model do not fit together.
        BatchdError: the server cannot be reached, or refuses the first request for what it is.
    """
    factory = await payload_factory(options, model)
    rng = np.random.default_rng(options.seed)
    if options.trace is not None:
        rows = read_trace(options.trace)
        factories = {model: factory}
        for name in sorted({row.model for row in rows if row.model is not None} - {model}):
            factories[name] = await payload_factory(options, name)
        plan = plan_trace(rows, factories, model, rng, speed=options.speed)
        await _check_first(send, plan[0].payload, factories[rows[0].model or model])
        return await _trace(options, plan, send, err)
    payloads = payload_pool(factory, rng, items=options.items, deadline_s=options.deadline_s)
    await _check_first(send, payloads[0], factory)
    match options.mode:
        case Mode.CLOSED:
            return await _closed(options, payloads, send, err)
        case Mode.RAMP:
            return await _ramp(options, payloads, send, err)
        case Mode.MAX_RATE:
            return await _max_rate(options, payloads, send, out, err)
        case _:
            rate = options.rate or DEFAULT_RATE
            return Outcome(reports=(await _open(options, payloads, send, err, rate, "open loop"),))


async def _check_first(send: Send, payload: Payload, factory: PayloadFactory) -> None:
    exchange = await send(payload)
    if not exchange.ok and not exchange.outcome.startswith(_OVERLOAD):
        detail = f": {exchange.message}" if exchange.message else ""
        raise RefusedAtOnce(f"the first request failed with {exchange.outcome}{detail}{_advice(factory)}")


def _advice(factory: PayloadFactory) -> str:
    """Say what to try where tensors were made up for several inputs: metadata does not tell which go together."""
    if not isinstance(factory, TensorPayloads) or len(factory.inputs) < 2:
        return ""
    sent = ", ".join(tensor.name for tensor in factory.inputs)
    return f" (sent were {sent}; --input-name NAME sends only some of them, --texts or --inputs your own)"


async def _open(
    options: LoadTestOptions, payloads: Sequence[Payload], send: Send, err: Console, rate: float, title: str
) -> LoadReport:
    measured_s = options.measured_s if options.measured_s is not None else (options.requests or 0) / rate
    async with shown(err, f"{title}, {rate:g}/s", options.warmup_s + measured_s) as observer:
        recording = await measure_open_loop(
            send,
            payloads,
            OpenLoad(
                rate=rate,
                duration_s=options.measured_s,
                count=options.requests,
                arrivals=parse_arrivals(options.arrivals),
                warmup_s=options.warmup_s,
                deadline_s=options.deadline_s,
                seed=options.seed,
            ),
            observer=observer,
        )
    return report_of(recording, mode="open", slo_s=options.slo_s, rate=rate)


async def _closed(options: LoadTestOptions, payloads: Sequence[Payload], send: Send, err: Console) -> Outcome:
    assert options.concurrency is not None
    total_s = None if options.measured_s is None else options.warmup_s + options.measured_s
    async with shown(err, f"closed loop, {options.concurrency} users", total_s) as observer:
        recording = await closed_loop(
            send,
            payloads,
            ClosedLoad(
                concurrency=options.concurrency,
                duration_s=options.measured_s,
                count=options.requests,
                warmup_s=options.warmup_s,
                deadline_s=options.deadline_s,
            ),
            observer=observer,
        )
    return Outcome(reports=(report_of(recording, mode="closed", slo_s=options.slo_s),))


async def _ramp(options: LoadTestOptions, payloads: Sequence[Payload], send: Send, err: Console) -> Outcome:
    rates = options.ramp_rates()
    reports = [
        await _open(options, payloads, send, err, rate, f"step {step} of {len(rates)}")
        for step, rate in enumerate(rates, start=1)
    ]
    return Outcome(reports=tuple(reports))


async def _trace(options: LoadTestOptions, plan: Sequence[PlannedRequest], send: Send, err: Console) -> Outcome:
    span_s = plan_span_s(plan)
    async with shown(err, f"trace of {len(plan)} requests", span_s) as observer:
        recording = await open_loop(send, plan, span_s=span_s, observer=observer)
    return Outcome(reports=(report_of(recording, mode="trace", slo_s=options.slo_s),))


async def _max_rate(
    options: LoadTestOptions, payloads: Sequence[Payload], send: Send, out: Console, err: Console
) -> Outcome:
    assert options.slo_s is not None
    start = options.rate
    if start is None:
        async with shown(err, "capacity probe", PROBE_S) as observer:
            capacity = await probe_capacity(send, payloads, observer=observer)
        start = max(0.5 * capacity, 0.2)
        render.print_line(out, f"a closed loop got through {capacity:.1f}/s; starting at half of that")
    start = min(start, options.max_rate)
    plan = TrialPlan(
        slo_s=options.slo_s,
        min_count=options.trial_count,
        min_s=options.duration_s or TRIAL_S,
        warmup_s=options.warmup_s,
        arrivals=parse_arrivals(options.arrivals),
        deadline_s=options.deadline_s,
        seed=options.seed,
    )
    render.print_line(
        out,
        f"trials of at least {plan.min_count} requests and {plan.min_s:g} s each, after {plan.warmup_s:g} s of warm-up",
    )

    def watch(rate: float, seconds: float) -> AbstractAsyncContextManager[Observer]:
        return shown(err, f"trial at {rate:.1f}/s", seconds)

    found = await search_max_rate(
        send,
        payloads,
        plan=plan,
        search=RateSearch(start=start, floor=min(start, max(0.1, start / 100)), ceiling=options.max_rate),
        watch=watch,
        on_trial=lambda trial: render.print_trial(out, trial),
    )
    return Outcome(reports=tuple(trial.report for trial in found.trials), max_rate=found)
