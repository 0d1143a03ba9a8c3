"""The demonstration's traffic: lines of real handwritten digits, read once for accuracy and then sent as load."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import numpy as np
from rich.console import Console

from batchd_client import AsyncClient, encode_infer
from batchd_client.loadtest import ClosedLoad, Connections, LoadReport, OpenLoad, Payload, Target, plan_requests
from batchd_client.loadtest.measurement import measure_open_loop
from batchd_client.loadtest.progress import shown
from batchd_client.loadtest.questions import model_statistics
from batchd_client.loadtest.report import report_of
from batchd_client.loadtest.runner import Observer, Recording, Send, closed_loop, open_loop
from batchd_client.loadtest.server_statistics import difference
from batchd_server.cli.demo_report import Accuracy
from batchd_server.models.digit_lines.scans import Image, Labels

Line: TypeAlias = tuple[Image, Labels]

MODEL = "digit-lines"
USERS = 48
"""Who keep the server busy while its capacity is measured."""


async def read_lines(url: str, lines: Sequence[Line]) -> Accuracy:
    """Have every line read, many at a time, and compare with what is written there.

    Raises:
        BatchdError: a request failed.
    """
    async with AsyncClient(url) as client:
        answers = await client.infer_many(
            MODEL, [{"image": image} for image, _ in lines], concurrency=USERS, timeout_s=30.0
        )
    right = [np.equal(answer["digits"], labels) for answer, (_, labels) in zip(answers, lines, strict=True)]
    return Accuracy(
        lines=len(lines),
        right_lines=sum(bool(of_line.all()) for of_line in right),
        digits=sum(of_line.size for of_line in right),
        right_digits=sum(int(of_line.sum()) for of_line in right),
    )


def encode_lines(lines: Sequence[Line], deadline_s: float, model: str = MODEL) -> tuple[Payload, ...]:
    """Encode each line as a request of its own, that wants its answer within `deadline_s`."""
    payloads = []
    for image, _ in lines:
        request = encode_infer(model, {"image": image[np.newaxis]}, timeout_s=deadline_s)
        payloads.append(Payload(path=request.path, headers=request.headers, body=request.body, size=image.shape[1]))
    return tuple(payloads)


class Traffic:
    """Sends load to one daemon, one phase after the other, and shows how it goes."""

    def __init__(self, console: Console, url: str, payloads: Sequence[Payload], slo_s: float) -> None:
        self._console = console
        self._target = Target(url=url)
        self._payloads = payloads
        self._slo_s = slo_s

    async def saturate(self, seconds: float) -> LoadReport:
        """Keep `USERS` users asking, to see what the daemon can do."""
        load = ClosedLoad(concurrency=USERS, duration_s=seconds, warmup_s=1.0)

        async def run(send: Send, observer: Observer) -> Recording:
            return await closed_loop(send, self._payloads, load, observer=observer)

        return await self._measure("finding the capacity", seconds + 1.0, "closed", run)

    async def steady(self, rate: float, seconds: float) -> LoadReport:
        """Send at `rate` per second, at random times, whatever the daemon does."""
        load = OpenLoad(rate=rate, duration_s=seconds)

        async def run(send: Send, observer: Observer) -> Recording:
            return await measure_open_loop(send, self._payloads, load, observer=observer)

        return await self._measure(f"steady traffic, {rate:,.0f} requests/s", seconds, "open", run)

    async def bursts(self, size: int, count: int, gap_s: float) -> LoadReport:
        """Send `size` requests at once, `count` times."""
        plan = plan_requests(np.repeat(np.arange(count) * gap_s, size), self._payloads, np.random.default_rng(size))

        async def run(send: Send, observer: Observer) -> Recording:
            return await open_loop(send, plan, span_s=count * gap_s, observer=observer)

        return await self._measure(f"{count} bursts of {size} requests", count * gap_s, "open", run)

    async def _measure(
        self, title: str, seconds: float, mode: str, run: Callable[[Send, Observer], Awaitable[Recording]]
    ) -> LoadReport:
        before = await model_statistics(self._target, MODEL)
        async with Connections(self._target) as connections, shown(self._console, title, seconds) as observer:
            recording = await run(connections.send, observer)
        after = await model_statistics(self._target, MODEL)
        return report_of(recording, mode=mode, slo_s=self._slo_s, statistics=difference(before, after))
