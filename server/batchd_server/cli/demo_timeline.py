"""Watches the traffic and the job of the demonstration's training, and prints a line every other second."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from rich.console import Console

from batchd_client import AsyncClient, decode_infer
from batchd_client.loadtest import Payload, Sample
from batchd_client.loadtest.quantiles import quantiles
from batchd_server.cli.demo_learning import Interval, Promotion, Tally
from batchd_server.models.digit_lines.scans import Labels

INTERVAL_S = 2.0
_HEADER = "  time    step   batch   validation   served   p99, ms   training's share"


@dataclass(frozen=True, slots=True)
class Lent:
    """How the device is lent to the job."""

    seconds: float = 0.0  # so far
    denied: str | None = None  # why it is not, right now


class Timeline:
    """`read` and `add` are fed by the traffic, `follow` and `promoted` by who trains; `run` prints."""

    def __init__(self, console: Console, client: AsyncClient, written: Mapping[Payload, Labels]) -> None:
        self._console, self._client, self._written = console, client, written
        self._start = asyncio.get_running_loop().time()
        self._job_id: str | None = None
        self._latencies: list[float] = []
        self._notes: list[str] = []
        self.tally = Tally()
        self.intervals: list[Interval] = []
        self.promotions: list[Promotion] = []

    @property
    def now(self) -> float:
        """Seconds since this was made."""
        return asyncio.get_running_loop().time() - self._start

    def read(self, payload: Payload, headers: Mapping[str, str], body: bytes) -> None:
        """Compare an answer with what is written there.

        Raises:
            ProtocolError: the answer cannot be understood.
        """
        written = self._written[payload]
        right = np.equal(decode_infer(headers, body)["digits"][0], written)
        self.tally += Tally(len(written), int(right.sum()))

    def add(self, sample: Sample) -> None:
        """Take the news that a request is over."""
        if sample.ok:
            self._latencies.append(sample.response_s)

    def follow(self, job_id: str) -> None:
        """Tell of this job from now on."""
        self._job_id = job_id

    def promoted(self, step: int, validation: float) -> None:
        """Take the news that the weights of a step are served."""
        self.promotions.append(Promotion(at=self.now, step=step, validation=validation))
        self._notes.append(f"promoted step {step} ({validation:.1%})")

    async def lent(self) -> Lent:
        """Ask what the job has had of the device; that is forgotten when it ends.

        Raises:
            BatchdError: the daemon does not answer.
        """
        leases = (await self._client.status()).get("leases") or {}
        tenants = [] if self._job_id is None else leases.get("tenants", [])
        seconds = sum(tenant["device_s"] for tenant in tenants if tenant["name"].startswith(self._job_id))
        return Lent(float(seconds), leases.get("denied"))

    async def run(self) -> None:
        """Print for ever."""
        self._print(_HEADER)
        began, lent, tally = self.now, Lent(), self.tally
        while True:
            await asyncio.sleep(began + INTERVAL_S - self.now)
            summary, self._latencies = quantiles(self._latencies), []
            job = None if self._job_id is None else (await self._client.training.job(self._job_id)).progress
            now, now_lent, now_tally = self.now, await self.lent(), self.tally
            interval = Interval(
                ends=now,
                step=0 if job is None else job.step,
                batch_size=None if job is None else job.batch_size,
                validation=None if job is None else job.validation_accuracy,
                served=(now_tally - tally).accuracy,
                p99=None if summary is None else summary.p99,
                share=max(0.0, now_lent.seconds - lent.seconds) / (now - began),
                denied=now_lent.denied,
            )
            began, lent, tally = now, now_lent, now_tally
            self.intervals.append(interval)
            self._print(_line(interval, self._notes))
            self._notes.clear()

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _line(interval: Interval, notes: list[str]) -> str:
    figures = (
        f"{interval.ends:4.0f} s",
        f"{interval.step or '-':>6}",
        f"{interval.batch_size or '-':>6}",
        f"{_percent(interval.validation):>11}",
        f"{_percent(interval.served):>7}",
        f"{'-' if interval.p99 is None else f'{interval.p99 * 1e3:.0f}':>8}",
        f"{_percent(interval.share):>17}",
    )
    return "  ".join((*figures, *notes)).rstrip()


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
