"""What is shown on stderr while a run goes on: a bar on a terminal, else a plain line now and then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from batchd_client.loadtest.quantiles import quantiles
from batchd_client.loadtest.runner import Observer
from batchd_client.loadtest.sample import Sample

_TICK_S = 0.5  # drawing costs the generator a few milliseconds each time
_LINE_EVERY_S = 5.0


@dataclass(slots=True)
class _Tally:
    ok: int = 0
    failed: int = 0
    recent: list[float] = field(default_factory=list[float])

    def add(self, sample: Sample) -> None:
        if sample.ok:
            self.ok += 1
            self.recent.append(sample.response_s)
        else:
            self.failed += 1

    def line(self) -> str:
        summary = quantiles(self.recent)
        self.recent.clear()
        latest = "" if summary is None else f", lately p50 {summary.p50 * 1e3:.1f} ms p99 {summary.p99 * 1e3:.1f} ms"
        return f"{self.ok} answered, {self.failed} failed{latest}"


@asynccontextmanager
async def shown(console: Console, title: str, total_s: float | None) -> AsyncGenerator[Observer]:
    """Show a run of `total_s` seconds (None = unknown) while the context lasts; feed it with the yielded observer."""
    tally = _Tally()
    show = _bar if console.is_terminal else _lines
    ticker = asyncio.create_task(show(console, title, total_s, tally))
    try:
        yield tally.add
    finally:
        ticker.cancel()
        with suppress(asyncio.CancelledError):
            await ticker


async def _bar(console: Console, title: str, total_s: float | None, tally: _Tally) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[figures]}"))
    # Drawn from this task: rich's own refresh thread would hold the interpreter lock at arbitrary times.
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as bar:
        task: TaskID = bar.add_task(title, total=total_s, figures="")
        start = asyncio.get_running_loop().time()
        while True:
            elapsed = asyncio.get_running_loop().time() - start
            done = elapsed if total_s is None else min(elapsed, total_s)
            bar.update(task, completed=done, figures=f"{elapsed:.0f} s, {tally.line()}")
            bar.refresh()
            await asyncio.sleep(_TICK_S)


async def _lines(console: Console, title: str, total_s: float | None, tally: _Tally) -> None:
    start = asyncio.get_running_loop().time()
    of_total = "" if total_s is None else f" of {total_s:.0f}"
    while True:
        await asyncio.sleep(_LINE_EVERY_S)
        elapsed = asyncio.get_running_loop().time() - start
        console.print(
            f"{title}: {elapsed:.0f}{of_total} s, {tally.line()}", markup=False, highlight=False, soft_wrap=True
        )
