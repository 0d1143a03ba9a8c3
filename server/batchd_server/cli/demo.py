"""`batchd demo`: the whole daemon at work, from an empty port to a report, and nothing left behind."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from collections.abc import Awaitable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NoReturn

import httpx
import typer
from rich.console import Console

from batchd_client import BatchdError
from batchd_client.loadtest import LoadReport, run_precisely
from batchd_server.cli.child_daemon import DaemonFailed, child_daemon
from batchd_server.cli.demo_learning import Learning
from batchd_server.cli.demo_readings import padding_waste, read_daemon
from batchd_server.cli.demo_report import Findings, Phase, print_report
from batchd_server.cli.demo_traffic import MODEL, USERS, Line, Traffic, encode_lines, read_lines
from batchd_server.cli.demo_training import FRESH_MODEL, train_while_serving
from batchd_server.models.digit_lines.scans import scan_lines

READ_LINES = 320
SENT_LINES = 512
SEED = 7
CAPACITY_S = 4.0
STEADY_SHARE = 0.65
BURSTS = 5
BURST_GAP_S = 0.8
BURST_SHARE = 0.12  # of what the daemon can do in a second
TRAINING_SHARE = 0.4  # of the capacity, that is asked for while a model learns
MIN_ACCURACY = 0.9
MAX_REFUSED = 0.5
IN_TIME_OR_SAID_SO = ("200", "429", "503", "504")
"""On a machine that is busy otherwise, refusals for lack of time are right answers."""


CONFIG = """
[state]
directory = {state}

[models.{model}]
entrypoint = "batchd_server.models.digit_lines:DigitLines"

[models.{fresh_model}]
entrypoint = "batchd_server.models.digit_lines:DigitLines"
options = {{ weights = "fresh" }}
batching = {{ slo_ms = {slo_ms} }}
"""


class DemoFailed(RuntimeError):
    """The daemon ran, and did not do what it should."""


def demo(
    seconds: Annotated[float, typer.Option(min=2.0, max=600.0, help="Length of the steady traffic.")] = 12.0,
    slo_ms: Annotated[float, typer.Option(min=1.0, help="Deadline of every request.")] = 250.0,
    train_seconds: Annotated[
        float, typer.Option(min=0.0, max=600.0, help="Longest that the training may take; 0 leaves it out.")
    ] = 90.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    report: Annotated[Path | None, typer.Option(help="Also write the findings to this JSON file.")] = None,
) -> None:
    """Start the daemon, send it lines of handwritten digits, train a second model meanwhile, report, and stop it."""
    console = Console()
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs with SIGINT ignored
    try:
        findings = _run(console, seconds, train_seconds, slo_ms / 1e3, device)
    except (DaemonFailed, DemoFailed) as failure:
        _fail(str(failure))
    except KeyboardInterrupt:
        print("\ninterrupted: the daemon has been stopped", file=sys.stderr)
        raise typer.Exit(130) from None
    print_report(console, findings)
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(json.dumps(findings.to_dict(), indent=2) + "\n")
        console.print(f"findings: {report}", highlight=False, soft_wrap=True)
    console.print("The daemon has drained and stopped.", highlight=False)
    if findings.learning is not None and (shortfall := findings.learning.shortfall(MIN_ACCURACY)) is not None:
        _fail(f"training: {shortfall}")


def _leave(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _fail(message: str) -> NoReturn:
    print(f"batchd demo: {message}", file=sys.stderr)
    raise typer.Exit(1)


def _run(console: Console, seconds: float, train_seconds: float, slo_s: float, device: str) -> Findings:
    lines = scan_lines(SEED, SENT_LINES)
    with tempfile.TemporaryDirectory(prefix="batchd-demo-") as folder:
        console.print("starting the daemon on a free port ...")
        arguments = ["--device", device, "--host", "127.0.0.1", "--config", str(_write_config(Path(folder), slo_s))]
        environment = {
            "TORCHINDUCTOR_CACHE_DIR": str(Path(folder) / "torch"),  # else torch leaves a folder behind
            "BATCHD_SECURITY__KEYS": "[]",  # those that the shell may name are for another daemon
        }
        with child_daemon(Path(folder) / "daemon.log", arguments=arguments, environment=environment) as daemon:
            console.print(daemon.ready_line, highlight=False, markup=False, soft_wrap=True)
            try:
                findings = run_precisely(_measure(console, daemon.url, lines, seconds, train_seconds, slo_s))
            except (BatchdError, httpx.HTTPError, ExceptionGroup, DemoFailed) as error:
                raise DemoFailed(f"{_reason(error)}\nThe daemon's log:\n{daemon.tail()}") from error
        if daemon.process.returncode != 0:
            code = daemon.process.returncode
            raise DemoFailed(f"the daemon ended with code {code}, not 0. Its log:\n{daemon.tail()}")
    return findings


def _write_config(folder: Path, slo_s: float) -> Path:
    path = folder / "batchd.toml"
    state = json.dumps(str(folder / "state"))
    path.write_text(CONFIG.format(state=state, model=MODEL, fresh_model=FRESH_MODEL, slo_ms=slo_s * 1e3))
    return path


async def _measure(
    console: Console, url: str, lines: Sequence[Line], seconds: float, train_seconds: float, slo_s: float
) -> Findings:
    console.print(f"reading {READ_LINES} lines of handwritten digits, and comparing ...")
    accuracy = await read_lines(url, lines[:READ_LINES])
    if accuracy.of_digits < MIN_ACCURACY:
        raise DemoFailed(f"only {accuracy.of_digits:.1%} of the digits were read rightly")
    traffic = Traffic(console, url, encode_lines(lines, slo_s), slo_s)
    looks = [read_daemon(url)]
    phases: list[Phase] = []

    async def take(name: str, run: Awaitable[LoadReport]) -> LoadReport:
        report = await run
        looks.append(read_daemon(url))
        phases.append(Phase(name=name, report=report, padding=padding_waste(looks[-2], looks[-1])))
        return report

    capacity = (await take(f"{USERS} users, no pause", traffic.saturate(CAPACITY_S))).completed_rate
    if capacity <= 0:
        raise DemoFailed("no request was answered")
    rate = STEADY_SHARE * capacity
    steady = await take(f"steady, {STEADY_SHARE:.0%}", traffic.steady(rate, seconds))
    size = max(8, round(BURST_SHARE * capacity))
    await take(f"{BURSTS} bursts of {size}", traffic.bursts(size, BURSTS, BURST_GAP_S))
    broken = sum(count for outcome, count in steady.outcomes.items() if not outcome.startswith(IN_TIME_OR_SAID_SO))
    if broken:
        raise DemoFailed(f"{broken} of the steady requests failed: {steady.commonest_failure}")
    if steady.failed_fraction > MAX_REFUSED:
        raise DemoFailed(
            f"{steady.failed_fraction:.0%} of the steady requests were refused or late ({steady.commonest_failure}): "
            "is this machine busy with something else?"
        )
    learning: Learning | None = None
    if train_seconds > 0:
        rate = TRAINING_SHARE * capacity
        console.print(f"{FRESH_MODEL} knows nothing, is asked {rate:,.0f} times a second, and learns:")
        learning = await train_while_serving(console, url, lines, rate=rate, slo_s=slo_s, limit_s=train_seconds)
        looks.append(read_daemon(url))
    return Findings(
        title=f"batchd {version('batchd')} serves {MODEL}",
        phases=phases,
        accuracy=accuracy,
        readings=looks[-1],
        slo_s=slo_s,
        padding=padding_waste(looks[0], looks[len(phases)]),
        learning=learning,
    )


def _reason(error: BaseException) -> str:
    """Return what happened first, of a group too."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__
