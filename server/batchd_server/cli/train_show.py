"""What `batchd train` prints: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from batchd_client import BatchSizeCommit, Dataset, JobCheckpoint, TrainingFigures, TrainingJob

SHOWN_COMMITS = 8


def plain_console() -> Console:
    """Return a console that prints what it is given: reasons may hold brackets."""
    return Console(markup=False, highlight=False)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2))


def print_jobs(console: Console, jobs: Sequence[TrainingJob], *, more: bool) -> None:
    """Print one line per job."""
    table = Table()
    table.add_column("job", no_wrap=True, min_width=len("job-") + 16)  # a name to copy, whatever else must shrink
    for title in ("status", "model", "dataset", "step", "epoch", "loss", "validation", "batch", "submitted"):
        table.add_column(title)
    for job in jobs:
        now = job.progress
        table.add_row(
            job.id,
            job.status,
            job.model,
            job.dataset,
            str(now.step),
            f"{now.epoch:.2f}",
            number(now.loss),
            percent(now.validation_accuracy),
            number(now.batch_size),
            when(job.created_at),
        )
    console.print(table)
    if more:
        console.print(f"There are older ones: batchd train list --after {jobs[-1].id}")


def print_job(
    console: Console, job: TrainingJob, checkpoints: Sequence[JobCheckpoint], commits: Sequence[BatchSizeCommit]
) -> None:
    """Print all about a job."""
    table = Table(show_header=False, box=None)
    for name, value in _facts(job):
        table.add_row(name, value)
    console.print(table)
    if checkpoints:
        saved = Table("checkpoint", "validation", "bytes", "saved", title="Checkpoints", title_justify="left")
        for checkpoint in checkpoints:
            name = f"step {checkpoint.step}" + (" (best)" if checkpoint.best else "")
            saved.add_row(
                name,
                percent(checkpoint.validation_accuracy),
                f"{checkpoint.bytes:,}",
                when(checkpoint.created_at),
            )
        console.print(saved)
    changes = [commit for commit in commits if commit.changed]
    if changes:
        title = f"Batch sizes: {len(changes)} changes in {len(commits)} decisions"
        sizes = Table("from step", "size", "proposed", "reason", title=title, title_justify="left")
        for commit in changes[-SHOWN_COMMITS:]:
            sizes.add_row(str(commit.step), str(commit.size), number(commit.raw), commit.reason)
        console.print(sizes)


def print_datasets(console: Console, datasets: Iterable[Dataset]) -> None:
    """Print one line per dataset."""
    table = Table("dataset", "name", "format", "examples", "bytes")
    for dataset in datasets:
        table.add_row(dataset.id, dataset.name, dataset.format, f"{dataset.examples:,}", f"{dataset.bytes:,}")
    console.print(table)


def job_json(
    job: TrainingJob, checkpoints: Sequence[JobCheckpoint], commits: Sequence[BatchSizeCommit]
) -> dict[str, Any]:
    """Return all about a job as JSON."""
    return {
        **job.document,
        "checkpoints": [asdict(checkpoint) for checkpoint in checkpoints],
        "journal": [asdict(commit) for commit in commits],
    }


def figures_line(now: TrainingFigures) -> str:
    """Return a job's latest figures in one line."""
    share = None if now.device_share is None else f"{now.device_share:.0%}"
    shown = {
        "step": str(now.step),
        "epoch": f"{now.epoch:.2f}",
        "loss": None if now.loss is None else number(now.loss),
        "accuracy": None if now.accuracy is None else percent(now.accuracy),
        "validation": None if now.validation_accuracy is None else percent(now.validation_accuracy),
        "batch size": None if now.batch_size is None else str(now.batch_size),
        "device": share,
    }
    return ", ".join(f"{name} {value}" for name, value in shown.items() if value is not None)


def number(value: float | None) -> str:
    """Return a number with four digits, or a dash."""
    return "-" if value is None else f"{value:.4g}"


def percent(value: float | None) -> str:
    """Return a share in percent, or a dash."""
    return "-" if value is None else f"{value:.1%}"


def when(at: float | None) -> str:
    """Return a time of day, local, with its date."""
    return "-" if at is None else datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _facts(job: TrainingJob) -> Iterable[tuple[str, str]]:
    now = job.progress
    yield "job", job.id
    yield "status", job.status if job.reason is None else f"{job.status}: {job.reason}"
    yield "model, dataset", f"{job.model}, {job.dataset}"
    yield "submitted", when(job.created_at)
    yield "started, finished", f"{when(job.started_at)}, {when(job.finished_at)}"
    yield "progress", f"step {now.step}, epoch {now.epoch:.2f}, {now.examples:,} examples"
    yield "loss, validation", f"{number(now.loss)}, {number(now.validation_loss)}"
    yield "accuracy, validation", f"{percent(now.accuracy)}, {percent(now.validation_accuracy)}"
    yield "batch size, microbatch", f"{number(now.batch_size)}, {number(now.microbatch)}"
    yield "learning rate", number(now.learning_rate)
    yield "noise scale", number(now.noise_scale)
    yield "share of the device", percent(now.device_share)
    for name in ("optimizer", "batching"):
        yield name, json.dumps(job.document.get(name, {}))
