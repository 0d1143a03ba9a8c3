"""The two ways of putting load on a server: open loop and closed loop.

Time is the running event loop's, so tests run these on a loop with virtual time. What sends is passed in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from batchd_client.loadtest.load import ClosedLoad
from batchd_client.loadtest.payload import Payload, PlannedRequest
from batchd_client.loadtest.sample import Exchange, Sample

Send: TypeAlias = Callable[[Payload], Awaitable[Exchange]]
Observer: TypeAlias = Callable[[Sample], None]
Stop: TypeAlias = Callable[[Sample], bool]


@dataclass(slots=True, kw_only=True)
class Recording:
    """What a run leaves behind. Seconds since its start; `samples` holds what was scheduled from `measured_from` on."""

    measured_from: float
    span_s: float  # of the measured arrivals
    samples: list[Sample] = field(default_factory=list[Sample])
    offered: int = 0  # requests due in the measured part
    wall_s: float = 0.0  # from `measured_from` to the last answer, at least the span
    cpu_share: float | None = None  # of one core, while requests were being sent
    max_in_flight: int = 0
    stopped_early: bool = False


class _CpuMeter:
    """CPU time of the generator's own thread against the wall."""

    def __init__(self) -> None:
        self._cpu, self._wall = time.thread_time(), time.perf_counter()

    def share(self) -> float | None:
        elapsed = time.perf_counter() - self._wall
        return (time.thread_time() - self._cpu) / elapsed if elapsed > 0.2 else None


async def open_loop(
    send: Send,
    plan: Iterable[PlannedRequest],
    *,
    span_s: float,
    measured_from: float = 0.0,
    observer: Observer | None = None,
    stop: Stop | None = None,
) -> Recording:
    """Send every request when it is due, whatever has become of the others, and wait for all answers.

    `span_s` is the length of the schedule after `measured_from`. `stop` sees every measured sample; once it says True
    no more is sent and what is under way is broken off.
    """
    loop = asyncio.get_running_loop()
    recording = Recording(measured_from=measured_from, span_s=span_s)
    in_flight: set[asyncio.Task[None]] = set()
    start = loop.time()

    async def one(planned: PlannedRequest) -> None:
        exchange = await send(planned.payload)
        sample = _sample(planned.at, exchange, start, planned.payload, planned.deadline_s)
        if observer is not None:
            observer(sample)
        if planned.at < measured_from:
            return
        recording.samples.append(sample)
        if stop is not None and not recording.stopped_early and stop(sample):
            recording.stopped_early = True
            current = asyncio.current_task()
            for task in in_flight:
                if task is not current:
                    task.cancel()

    meter = None
    dispatched_until = measured_from
    async with asyncio.TaskGroup() as group:
        for planned in plan:
            # All that is due starts in the same turn of the loop: one a turn would fall behind a busy machine for good.
            delay = start + planned.at - loop.time()
            if delay > 0:
                await asyncio.sleep(delay)
            if recording.stopped_early:
                break
            if planned.at >= measured_from:
                meter = meter or _CpuMeter()
                recording.offered += 1
                dispatched_until = planned.at
            task = group.create_task(one(planned))
            in_flight.add(task)
            task.add_done_callback(in_flight.discard)
            recording.max_in_flight = max(recording.max_in_flight, len(in_flight))
        recording.cpu_share = meter.share() if meter is not None else None
    if recording.stopped_early:
        recording.span_s = max(dispatched_until - measured_from, 1e-9)
    _close(recording)
    return recording


async def closed_loop(
    send: Send,
    payloads: Sequence[Payload],
    load: ClosedLoad,
    *,
    observer: Observer | None = None,
) -> Recording:
    """Let users send, wait for the answer and send again; payloads take turns.

    The warm-up is answered to its end before the measured part begins: what it leaves in the queue would otherwise take
    the server's time from the measured requests.

    Raises:
        ValueError: where there is no payload.
    """
    if not payloads:
        raise ValueError("no payloads to send")
    loop = asyncio.get_running_loop()
    recording = Recording(measured_from=0.0, span_s=0.0, max_in_flight=load.concurrency)
    start = loop.time()
    index = 0

    def more(now: float, measured: bool) -> bool:
        if not measured:
            return now < load.warmup_s
        in_time = load.duration_s is None or now < recording.measured_from + load.duration_s
        return in_time and (load.count is None or recording.offered < load.count)

    async def user(measured: bool) -> None:
        nonlocal index
        while more(now := loop.time() - start, measured):
            payload = payloads[index % len(payloads)]
            index += 1
            recording.offered += measured
            sample = _sample(now, await send(payload), start, payload, load.deadline_s)
            if observer is not None:
                observer(sample)
            if measured:
                recording.samples.append(sample)
            if not sample.answered:  # a refused connection must not become a busy loop
                await asyncio.sleep(0.01)

    async def users(measured: bool) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(load.concurrency):
                group.create_task(user(measured))

    await users(measured=False)
    recording.measured_from = loop.time() - start
    meter = _CpuMeter()
    await users(measured=True)
    recording.cpu_share = meter.share()
    _close(recording)
    recording.span_s = recording.wall_s
    return recording


def _sample(scheduled: float, exchange: Exchange, start: float, payload: Payload, deadline_s: float | None) -> Sample:
    return Sample(
        scheduled=scheduled,
        sent=exchange.sent - start,
        done=exchange.done - start,
        outcome=exchange.outcome,
        ok=exchange.ok,
        answered=exchange.answered,
        size=payload.size,
        items=payload.items,
        deadline_s=deadline_s,
        waited_for_connection=exchange.waited_for_connection,
        timing=exchange.timing,
        message=exchange.message,
        retry_after_s=exchange.retry_after_s,
    )


def _close(recording: Recording) -> None:
    last = max((sample.done for sample in recording.samples), default=recording.measured_from)
    recording.wall_s = max(recording.span_s, last - recording.measured_from, 1e-9)
