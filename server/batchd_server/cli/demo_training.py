"""The demonstration's last part: a model that knows nothing answers requests, and meanwhile learns to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import aclosing

import numpy as np
from rich.console import Console

from batchd_client import AsyncClient, JobSettings
from batchd_client.loadtest import Connections, Payload, PlannedRequest, Target
from batchd_client.loadtest.report import LoadReport, report_of
from batchd_client.loadtest.runner import Send, open_loop
from batchd_server.cli.demo_learning import Learning
from batchd_server.cli.demo_timeline import Timeline
from batchd_server.cli.demo_traffic import Line, encode_lines

FRESH_MODEL = "digit-lines-fresh"
DATASET = "digit-lines"
MARKS = (0.5, 0.8, 0.9, 0.95)
"""Validation accuracies at which what has been learned goes into service."""
BEFORE_S = 4.0
AFTER_S = 4.0
"""Traffic before the job, and after the last promotion: what served accuracy is compared between."""
REQUEST_TIMEOUT_S = 30.0
"""Longer than the SLO, which is the model's: an answer that comes late is a figure, and no failure."""
SEED = 11
EVERY_STEPS = 20
JOB: JobSettings = {
    "max_steps": 5000,  # it is cancelled when the last mark is passed, or time is up
    "optimizer": {"name": "adamw", "lr": 0.005},
    "batching": {
        "schedule": {"name": "entropy"},  # batches grow as the predictions become sure
        "initial": 8,
        "min": 8,
        "max": 32,
        "lr_rule": "sqrt",
    },
    "validation": {"every_steps": EVERY_STEPS},
    "checkpoint": {"every_steps": EVERY_STEPS, "keep": 50},  # a fast device is ahead of the one who promotes
    "metadata": {"why": "batchd demo"},
}
"""95 % of validation after 5 to 8 seconds of one CPU thread, measured without traffic over four seeds."""


async def train_while_serving(
    console: Console, url: str, lines: Sequence[Line], *, rate: float, slo_s: float, limit_s: float
) -> Learning:
    """Send `rate` requests per second to `FRESH_MODEL`, train it meanwhile, and promote it at every mark.

    Training has `limit_s` seconds; that the last mark was not passed is no exception, but `Learning.problem`.

    Raises:
        BatchdError: the daemon does not answer, or not as it should.
    """
    payloads = encode_lines(lines, REQUEST_TIMEOUT_S, model=FRESH_MODEL)
    written = {payload: labels for payload, (_, labels) in zip(payloads, lines, strict=True)}
    async with AsyncClient(url) as client:
        timeline = Timeline(console, client, written)
        stop = asyncio.Event()
        async with Connections(Target(url=url), read=timeline.read) as connections, asyncio.TaskGroup() as group:
            traffic = group.create_task(_send(connections.send, payloads, rate, slo_s, stop, timeline))
            printing = group.create_task(timeline.run())
            await asyncio.sleep(BEFORE_S)
            before = timeline.tally
            pupil = Pupil(client, timeline)
            problem = await pupil.learn(limit_s)
            at_end = timeline.tally
            await asyncio.sleep(AFTER_S)
            after = timeline.tally - at_end
            printing.cancel()
            stop.set()
    return Learning(
        traffic=traffic.result(),
        timeline=timeline.intervals,
        promotions=timeline.promotions,
        before=before.accuracy,
        after=after.accuracy,
        seconds=pupil.seconds,
        share=pupil.share,
        problem=problem,
    )


async def _send(
    send: Send, payloads: Sequence[Payload], rate: float, slo_s: float, stop: asyncio.Event, timeline: Timeline
) -> LoadReport:
    recording = await open_loop(send, _arrivals(payloads, rate, stop), span_s=0.0, observer=timeline.add)
    recording.span_s = recording.wall_s
    return report_of(recording, mode="open", slo_s=slo_s, rate=rate)


def _arrivals(payloads: Sequence[Payload], rate: float, stop: asyncio.Event) -> Iterator[PlannedRequest]:
    """Yield requests at random times until `stop`: how long that takes is not known beforehand."""
    rng = np.random.default_rng(SEED)
    at = 0.0
    while not stop.is_set():
        at += float(rng.exponential(1.0 / rate))
        yield PlannedRequest(at=at, payload=payloads[int(rng.integers(len(payloads)))])


class Pupil:
    """A job, from its submission until it has passed the last mark."""

    def __init__(self, client: AsyncClient, timeline: Timeline) -> None:
        self._client, self._timeline = client, timeline
        self._validated: dict[int, float] = {}  # accuracies by step
        self.seconds = 0.0
        self.share: float | None = None

    async def learn(self, limit_s: float) -> str | None:
        """Return what went wrong; None where all marks have been passed."""
        began = self._timeline.now
        job_id = (await self._client.training.create(FRESH_MODEL, DATASET, **JOB)).id
        self._timeline.follow(job_id)
        in_time = True
        try:
            async with asyncio.timeout(limit_s):
                await self._pass_marks(job_id)
        except TimeoutError:
            in_time = False
        self.seconds = self._timeline.now - began
        job = await self._client.training.job(job_id)
        if not job.final:
            self.share = (await self._timeline.lent()).seconds / self.seconds
            await self._client.training.cancel(job_id)
        best = max(self._validated.values(), default=0.0)
        if best >= MARKS[-1] and in_time:
            return None
        end = f"{limit_s:g} s were not enough" if not in_time else f"the job {job.status}: {job.reason}"
        return f"{best:.1%} of validation, not {MARKS[-1]:.0%}, after {job.progress.step} steps: {end}"

    async def _pass_marks(self, job_id: str) -> None:
        """Promote at every mark, until the last or until the job ends."""
        marks = list(MARKS)
        async with aclosing(self._client.training.events(job_id)) as events:
            async for event in events:
                if event.kind == "validation":
                    self._validated[event.data["step"]] = event.data["accuracy"]
                elif event.kind == "checkpoint" and self._validated[event.data["step"]] >= marks[0]:
                    accuracy = await self._promote(job_id, event.data["step"])
                    marks = [mark for mark in marks if mark > accuracy]
                    if not marks:
                        return

    async def _promote(self, job_id: str, step: int) -> float:
        await self._client.training.promote(job_id, step)
        self._timeline.promoted(step, self._validated[step])
        return self._validated[step]
