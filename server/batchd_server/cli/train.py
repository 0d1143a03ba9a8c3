"""`batchd train`: training jobs of a running daemon. Needs the client only: no torch, no FastAPI."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchd_server.cli.train_datasets import app as datasets_app
from batchd_server.cli.train_options import (
    DEFAULT_URL,
    FAILED_EXIT_CODE,
    ApiKey,
    AsJson,
    JobId,
    Url,
    daemon,
    errors_in_one_line,
)

if TYPE_CHECKING:
    from batchd_client import Client, TrainingFigures, TrainingJob
    from batchd_client.training_calls import CheckpointName

METRICS_PAGE = 10_000
INTERRUPTED_EXIT_CODE = 130

_SIZE, _RATE, _RUN = "Batch size", "Learning rate", "Run"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(datasets_app, name="datasets")


@app.callback()
def train() -> None:
    """Train models on the daemon's device, beside the requests that it serves.

    Exit status: 0 done, of a followed job: succeeded; 1 failed, cancelled, or no daemon; 2 what was asked for is wrong.
    """


@app.command()
def submit(  # noqa: PLR0913 - one parameter per option of the command
    *,
    model: Annotated[str | None, typer.Option(help="A model of the daemon that can be trained.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Name or id; see `batchd train datasets`.")] = None,
    file: Annotated[Path | None, typer.Option(help="A job in JSON; options go over it.")] = None,
    epochs: Annotated[int | None, typer.Option(help="End after so many passes over the data.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="End after so many steps of the optimizer.")] = None,
    schedule: Annotated[
        str | None,
        typer.Option(help="What decides the global batch size; docs/training-schedules.md.", rich_help_panel=_SIZE),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A parameter of the schedule, or any place in the job, such as optimizer.momentum; repeatable.",
        ),
    ] = None,
    initial: Annotated[int | None, typer.Option(help="Global batch size at the start.", rich_help_panel=_SIZE)] = None,
    smallest: Annotated[int | None, typer.Option("--min", help="Never below this.", rich_help_panel=_SIZE)] = None,
    largest: Annotated[int | None, typer.Option("--max", help="Never above this.", rich_help_panel=_SIZE)] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="sgd, adam, adamw, lars or lamb.", rich_help_panel=_RATE)
    ] = None,
    lr: Annotated[float | None, typer.Option(help="At the initial batch size.", rich_help_panel=_RATE)] = None,
    lr_rule: Annotated[
        str | None, typer.Option(help="What other sizes make of it: none, linear, sqrt, ...", rich_help_panel=_RATE)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same run.", rich_help_panel=_RUN)] = None,
    weight: Annotated[float | None, typer.Option(help="Share of the device among jobs.", rich_help_panel=_RUN)] = None,
    fresh: Annotated[
        bool | None,
        typer.Option("--fresh/--served", help="Random weights, or those that are served.", rich_help_panel=_RUN),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--idempotency-key", help="The same key makes no second job.", rich_help_panel=_RUN),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Stay until it is over.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job."""
    from batchd_server.cli.train_spec import job_spec

    options = {
        "model": model,
        "dataset": dataset,
        "epochs": epochs,
        "max_steps": max_steps,
        "batching.schedule.name": schedule,
        "batching.initial": initial,
        "batching.min": smallest,
        "batching.max": largest,
        "batching.lr_rule": lr_rule,
        "optimizer.name": optimizer,
        "optimizer.lr": lr,
        "seed": seed,
        "weight": weight,
        "fresh": fresh,
    }
    with daemon(url, api_key) as client:
        job = client.training.create(idempotency_key=key, **job_spec(file, options, assignments or ()))
    if not follow:
        _tell(job, f"{job.id} {job.status}; batchd train follow {job.id}", as_json=as_json)
        return
    if not as_json:
        print(f"{job.id} {job.status}")
    raise typer.Exit(_follow(url, api_key, job.id, as_json=as_json))


@app.command("list")
def list_jobs(
    *,
    status: Annotated[str | None, typer.Option(help="Only jobs of this status.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="So many at most.")] = 20,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Only those older than this job.")] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    from batchd_server.cli.train_show import plain_console, print_jobs, print_json

    with daemon(url, api_key) as client:
        page = client.training.jobs(limit=limit, after=after, status=status)
    if as_json:
        print_json({"data": [job.document for job in page.jobs], "has_more": page.has_more})
    else:
        print_jobs(plain_console(), page.jobs, more=page.has_more)


@app.command("show")
def show_job(job_id: JobId, *, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show a job, its checkpoints and its batch sizes."""
    from batchd_server.cli.train_show import job_json, plain_console, print_job, print_json

    with daemon(url, api_key) as client:
        job = client.training.job(job_id)
        checkpoints, commits = client.training.checkpoints(job_id), client.training.journal(job_id)
    if as_json:
        print_json(job_json(job, checkpoints, commits))
    else:
        print_job(plain_console(), job, checkpoints, commits)


@app.command("follow")
def follow_job(job_id: JobId, *, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show what happens to a job until it is over; JSON is one object per line, the job itself last."""
    raise typer.Exit(_follow(url, api_key, job_id, as_json=as_json))


@app.command()
def pause(job_id: JobId, *, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Have a job rest. It keeps its state, and gives the device back."""
    with daemon(url, api_key) as client:
        job = client.training.pause(job_id)
    _tell(job, f"{job.id} {job.status}", as_json=as_json)


@app.command()
def resume(job_id: JobId, *, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Have a resting job go on."""
    with daemon(url, api_key) as client:
        job = client.training.resume(job_id)
    _tell(job, f"{job.id} {job.status}", as_json=as_json)


@app.command()
def cancel(job_id: JobId, *, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """End a job for good. Its checkpoints stay."""
    with daemon(url, api_key) as client:
        job = client.training.cancel(job_id)
    _tell(job, f"{job.id} {job.status}", as_json=as_json)


@app.command()
def promote(
    job_id: JobId,
    *,
    checkpoint: Annotated[str, typer.Option(metavar="best|last|STEP", help="Which of the job's states.")] = "best",
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Serve the model with a job's weights, without downtime."""
    with daemon(url, api_key) as client:
        told = client.training.promote(job_id, _checkpoint(checkpoint))
    if as_json:
        print(json.dumps(told, indent=2))
    else:
        print(f"{told.get('model', 'the model')} is served with step {told.get('step', checkpoint)} of {job_id}")


@app.command()
def rollback(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")],
    *,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Serve a model with the weights that it had before the last promotion."""
    with daemon(url, api_key) as client:
        told = client.training.rollback(model)
    if as_json:
        print(json.dumps(told, indent=2))
    else:
        print(f"{model} is served with the weights from before its last promotion")


@app.command()
def plot(
    job_id: JobId,
    *,
    out: Annotated[Path, typer.Option(metavar="FILE.png", help="Where to draw it: PNG, SVG or PDF.")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Draw a job: loss, accuracy, batch size, learning rate, noise scale, share of the device."""
    from batchd_client.loadtest.plot import check_plotting
    from batchd_server.cli.train_plot import plot_job

    with daemon(url, api_key) as client:
        check_plotting(out, "--out")
        job, steps = client.training.job(job_id), _steps(client, job_id)
        plot_job(job, steps, client.training.journal(job_id), out)
    if as_json:
        print(json.dumps({"job": job_id, "file": str(out), "steps": len(steps)}))
    else:
        print(f"{out}: {len(steps)} steps of {job_id}")


def _steps(client: Client, job_id: str) -> list[TrainingFigures]:
    steps: list[TrainingFigures] = []
    while True:
        page = client.training.metrics(job_id, after_step=steps[-1].step if steps else 0, limit=METRICS_PAGE)
        steps += page
        if len(page) < METRICS_PAGE:
            return steps


def _checkpoint(text: str) -> CheckpointName:
    match text:
        case "best" | "last":
            return text
        case _ if text.isascii() and text.isdigit():
            return int(text)
        case _:
            raise ValueError(f"--checkpoint takes best, last or a step, got {text!r}")


def _follow(url: str, api_key: str | None, job_id: str, *, as_json: bool) -> int:
    from batchd_client import AsyncClient
    from batchd_server.cli.train_follow import follow
    from batchd_server.cli.train_show import figures_line

    async def run() -> TrainingJob:
        async with AsyncClient(url, api_key=api_key) as client:
            return await follow(client, job_id, as_json=as_json)

    try:
        with errors_in_one_line(url):
            job = asyncio.run(run())
    except KeyboardInterrupt:
        print(f"\n{job_id} goes on; batchd train cancel {job_id} ends it", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE
    if as_json:
        print(json.dumps(job.document))
    else:
        reason = "" if job.reason is None else f": {job.reason}"
        print(f"{job.id} {job.status}{reason}\n{figures_line(job.progress)}")
    return 0 if job.status == "succeeded" else FAILED_EXIT_CODE


def _tell(job: TrainingJob, line: str, *, as_json: bool) -> None:
    print(json.dumps(job.document, indent=2) if as_json else line)
