"""`batchd loadtest`: from options to an exit code.

0: measured. 1: the server cannot be reached, or nothing succeeded. 2: the options make no sense.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from batchd_client.errors import BatchdError, ConnectionFailed, ProtocolError, ServerError
from batchd_client.loadtest import render
from batchd_client.loadtest.connections import Connections
from batchd_client.loadtest.modes import Outcome, run_mode
from batchd_client.loadtest.options import DEFAULT_LENGTHS, LoadTestOptions
from batchd_client.loadtest.plot import plot_reports
from batchd_client.loadtest.precise_loop import run_precisely
from batchd_client.loadtest.questions import model_statistics, only_model
from batchd_client.loadtest.server_statistics import difference

JSON_SCHEMA = 1


def run_command(options: LoadTestOptions) -> int:
    """Run a load test, print its report, and return the exit code."""
    err = Console(stderr=True)
    out = err if options.json == "-" else Console()
    started = datetime.now(UTC)
    try:
        model, outcome = run_precisely(_run(options, out, err))
    except ValueError as error:
        render.print_line(err, f"batchd loadtest: {error}")
        return 2
    except (BatchdError, OSError) as error:
        render.print_line(err, f"batchd loadtest: {_whose(error, options.url)}{error}")
        return 1
    _print(outcome, out)
    try:
        _write(options, model, outcome, started, out)
    except OSError as error:
        render.print_line(err, f"batchd loadtest: {error}")
        return 1
    if not any(report.succeeded for report in outcome.reports):
        reason = next(
            (report.commonest_failure for report in outcome.reports if report.commonest_failure), "nothing sent"
        )
        render.print_line(err, f"batchd loadtest: nothing succeeded: {reason}")
        return 1
    return 1 if outcome.max_rate is not None and outcome.max_rate.best is None else 0


def _whose(error: Exception, url: str) -> str:
    """Name the server where it may be the wrong one."""
    if isinstance(error, ConnectionFailed):
        return f"cannot reach {url}: "
    return f"{url} answered: " if isinstance(error, ServerError | ProtocolError) else ""


async def _run(options: LoadTestOptions, out: Console, err: Console) -> tuple[str, Outcome]:
    target = options.target()
    model = options.model or await only_model(target)
    lengths = "" if options.texts or options.inputs or options.lengths else f", lengths {DEFAULT_LENGTHS} by default"
    render.print_line(out, f"{options.mode.value} on {model} at {options.url}, seed {options.seed}{lengths}")
    before = await model_statistics(target, model)
    async with Connections(target) as connections:
        outcome = await run_mode(options, model, connections.send, out, err)
    if before is None or len(outcome.reports) != 1:
        return model, outcome
    counted = difference(before, await model_statistics(target, model))
    return model, replace(outcome, reports=(replace(outcome.reports[0], statistics=counted),))


def _print(outcome: Outcome, out: Console) -> None:
    if outcome.max_rate is not None:
        render.print_max_rate(out, outcome.max_rate)
        if outcome.max_rate.best is not None:
            render.print_report(out, outcome.max_rate.best.report)
    elif len(outcome.reports) == 1:
        render.print_report(out, outcome.reports[0])
    else:
        render.print_steps(out, outcome.reports)


def _write(options: LoadTestOptions, model: str, outcome: Outcome, started: datetime, out: Console) -> None:
    if options.json is not None:
        _write_json(_document(options, model, outcome, started), options.json)
    if options.plot is not None:
        plot_reports(outcome.reports, options.plot, f"{model}: {options.mode.value} against {options.url}")
        render.print_line(out, f"plot: {options.plot}")


def _document(options: LoadTestOptions, model: str, outcome: Outcome, started: datetime) -> dict[str, Any]:
    given = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()}
    del given["api_key"]
    found = outcome.max_rate
    passed = None if found is None else [trial.passed for trial in found.trials]
    return {
        "schema": JSON_SCHEMA,
        "started_at": started.isoformat(timespec="seconds"),
        "url": options.url,
        "model": model,
        "mode": options.mode.value,
        "options": given,
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "httpx": httpx.__version__,
            "system": platform.platform(),
        },
        "max_rate_per_s": None if found is None or found.best is None else found.best.rate,
        "runs": [
            {**report.to_dict(), **({} if passed is None else {"held": passed[index]})}
            for index, report in enumerate(outcome.reports)
        ],
    }


def _write_json(document: dict[str, Any], where: str) -> None:
    text = json.dumps(document, indent=2, allow_nan=False)
    if where == "-":
        Console(soft_wrap=True).out(text, highlight=False)
    else:
        Path(where).write_text(text + "\n", encoding="utf-8")
