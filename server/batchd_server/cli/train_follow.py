"""`batchd train follow`: a job's events as they come, and a bar that says how far it is."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import aclosing, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from batchd_client import AsyncClient, ConnectionFailed, JobEvent, TrainingJob, Unavailable
from batchd_server.cli.train_show import figures_line

BAR_EVERY_S = 0.5
LINE_EVERY_S = 5.0


async def follow(client: AsyncClient, job_id: str, *, as_json: bool) -> TrainingJob:
    """Print what happens to a job until it is over, and return what it has come to.

    Events go to standard output, one line each, or one JSON object each. How far it is goes to standard error: as a
    bar, or as a line now and then where that is no terminal or a program reads along.

    Raises:
        BatchdError: the daemon does not know the job, or has been away for too long.
    """
    job = await client.training.job(job_id)  # an unknown job is an error before anything is drawn
    console = Console(stderr=True)
    ticking = asyncio.create_task((_bar if console.is_terminal and not as_json else _lines)(client, job, console))
    try:
        async with aclosing(client.training.events(job_id)) as events:
            async for event in events:
                print(json.dumps(asdict(event)) if as_json else event_line(event), flush=True)
    finally:
        ticking.cancel()
        with suppress(asyncio.CancelledError):
            await ticking
    return await client.training.job(job_id)


def event_line(event: JobEvent) -> str:
    """Return an event as a line for people."""
    at = "" if event.at is None else datetime.fromtimestamp(event.at, UTC).astimezone().strftime("%H:%M:%S ")
    kind = event.kind.replace("_", " ")
    match event.data:
        case {"step": int(step), "size": int(size), "reason": str(reason)}:
            return f"{at}{kind} {size} after step {step}: {reason}"
        case _:
            details = ", ".join(f"{name} {_brief(value)}" for name, value in event.data.items() if value is not None)
            return f"{at}{kind}" + (f": {details}" if details else "")


def _brief(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def fraction_done(job: TrainingJob) -> float | None:
    """Return how much of a job is done, by whichever of its ends is nearer; None where it names none."""
    ends = (
        (job.progress.step, job.document.get("max_steps")),
        (job.progress.epoch, job.document.get("epochs")),
    )
    shares = [done / end for done, end in ends if isinstance(end, int) and end > 0]
    return min(1.0, max(shares)) if shares else None


async def _bar(client: AsyncClient, job: TrainingJob, console: Console) -> None:
    bar = Progress(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    task = bar.add_task(job.status, total=1.0)
    # rich takes what is printed meanwhile and shows it above the bar: on the terminal, but not if that goes to a file.
    with Live(console=console, auto_refresh=False, transient=True, redirect_stdout=sys.stdout.isatty()) as live:
        while True:
            bar.update(task, description=job.status, completed=fraction_done(job) or 0.0)
            figures = Text(figures_line(job.progress), style="dim", no_wrap=True, overflow="ellipsis")
            live.update(Group(bar, figures), refresh=True)
            await asyncio.sleep(BAR_EVERY_S)
            job = await _latest(client, job)


async def _lines(client: AsyncClient, job: TrainingJob, console: Console) -> None:
    while True:
        await asyncio.sleep(LINE_EVERY_S)
        job = await _latest(client, job)
        done = fraction_done(job)
        share = "" if done is None else f" {done:.0%}"
        console.print(
            f"{job.status}{share}: {figures_line(job.progress)}", markup=False, highlight=False, soft_wrap=True
        )


async def _latest(client: AsyncClient, job: TrainingJob) -> TrainingJob:
    """Return the job as it stands; as it stood while the daemon is away, which the stream of events outwaits."""
    try:
        return await client.training.job(job.id)
    except (ConnectionFailed, Unavailable):
        return job
