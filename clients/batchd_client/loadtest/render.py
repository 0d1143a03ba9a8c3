"""Reports for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from batchd_client.loadtest.max_rate import MaxRateReport, RateTrial
from batchd_client.loadtest.quantiles import Quantiles
from batchd_client.loadtest.report import LoadReport


def print_report(console: Console, report: LoadReport) -> None:
    """Print one run in full."""
    rates = _table("rates", "per second")
    rates.add_row("offered", f"{report.offered_rate:.1f}")
    rates.add_row("sent", f"{report.sent_rate:.1f}")
    rates.add_row("answered (200)", f"{report.completed_rate:.1f}")
    rates.add_row(f"goodput{_within(report)}", f"{report.goodput:.1f}")
    console.print(rates)
    latency = _table("latency, ms", "p50", "p90", "p95", "p99", "max")
    latency.add_row("response (since due)", *_milliseconds(report.response))
    latency.add_row("service (since sent)", *_milliseconds(report.service))
    if report.refused is not None:
        latency.add_row("refusals (since due)", *_milliseconds(report.refused))
    latency.add_row("generator lag", *_milliseconds(report.lag))
    if report.batches.queue is not None:
        latency.add_row("server: queue", *_milliseconds(report.batches.queue))
    if report.batches.compute is not None:
        latency.add_row("server: compute", *_milliseconds(report.batches.compute))
    console.print(latency)
    outcomes = _table("outcomes", "requests")
    for outcome, count in report.outcomes.items():
        outcomes.add_row("200 ok" if outcome == "200" else outcome, str(count))
    console.print(outcomes)
    for line in _batch_lines(report):
        print_line(console, line)
    busy = "" if report.cpu_share is None else f"{report.cpu_share:.0%} of a core, "
    print_line(console, f"generator: {busy}at most {report.max_in_flight} requests under way, no retries")
    if report.refused is not None:
        told = f"{report.told_when} of {report.refused.count} refusals"
        print_line(console, f"{told} said when to come again")
    print_line(console, f"{len(report.samples)} requests in {report.wall_s:.1f} s")
    print_warnings(console, report)


def print_warnings(console: Console, report: LoadReport) -> None:
    """Print what makes the numbers less than they seem."""
    for warning in report.warnings:
        console.print(f"WARNING: {warning}", style="bold yellow", markup=False, highlight=False, soft_wrap=True)
    if report.commonest_failure is not None:
        print_line(console, f"most frequent failure: {report.commonest_failure}")


def print_steps(console: Console, reports: Sequence[LoadReport]) -> None:
    """Print a row for each step of a ramp."""
    print_line(console, "requests per second; response times in ms")
    table = _table("offered", "answered", "goodput", "p50", "p90", "p95", "p99", "max", "failed", narrow=True)
    for report in reports:
        table.add_row(
            f"{report.offered_rate:.1f}",
            f"{report.completed_rate:.1f}",
            f"{report.goodput:.1f}",
            *_milliseconds(report.response, decimals=1),
            f"{report.failed_fraction:.1%}",
        )
    console.print(table)
    for rate, warning in ((report.offered_rate, warning) for report in reports for warning in report.warnings):
        console.print(
            f"WARNING at {rate:.1f}/s: {warning}", style="bold yellow", markup=False, highlight=False, soft_wrap=True
        )


def print_trial(console: Console, trial: RateTrial) -> None:
    """Print one trial of a search, as it ends."""
    report = trial.report
    limited = " (generator at its limit)" if report.generator_limited else ""
    print_line(
        console,
        f"{trial.rate:9.1f}/s  {'holds ' if trial.passed else 'misses'}  {trial.reason}, "
        f"{report.failed_fraction:.1%} failed, {trial.count} requests planned{limited}",
    )


def print_max_rate(console: Console, found: MaxRateReport) -> None:
    """Print the result of a search."""
    slo = f"p99 <= {found.slo_s * 1e3:g} ms and at most 1 % failed"
    if found.best is None:
        print_line(console, f"no rate held {slo}; the lowest tried was {min(t.rate for t in found.trials):.2f}/s")
        return
    print_line(console, f"highest rate with {slo}: {found.best.rate:.1f} requests/s ({found.best.count} requests)")
    if any(trial.report.generator_limited for trial in found.trials):
        text = "WARNING: in some trials the generator was at its limit: the server's own limit may lie higher"
        console.print(text, style="bold yellow", markup=False, highlight=False, soft_wrap=True)


def _batch_lines(report: LoadReport) -> Iterable[str]:
    if report.statistics is not None and report.statistics.mean_batch_size is not None:
        counted = report.statistics
        yield (
            f"server counted {counted.inference_count} items in {counted.execution_count} batches, "
            f"mean {counted.mean_batch_size:.2f} (warm-up and other clients included)"
        )
        if counted.padding_ratio is not None:
            yield f"padding waste: {counted.padding_ratio:.1%} of all elements"
    if report.batches.mean_size is not None:
        sizes = ", ".join(f"{size}: {count}" for size, count in report.batches.sizes.items())
        yield f"batch size as requests saw it: mean {report.batches.mean_size:.2f} ({sizes})"


def _within(report: LoadReport) -> str:
    return "" if report.slo_s is None else f" (within {report.slo_s * 1e3:g} ms)"


def _milliseconds(summary: Quantiles | None, *, decimals: int = 2) -> tuple[str, ...]:
    if summary is None:
        return ("-",) * 5
    values = (summary.p50, summary.p90, summary.p95, summary.p99, summary.max)
    return tuple(f"{value * 1e3:.{decimals}f}" for value in values)


def _table(first: str, *others: str, narrow: bool = False) -> Table:
    """Return an empty table; a `narrow` one has nine columns in 80 characters, seven digits each."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0) if narrow else (0, 1))
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def print_line(console: Console, text: str) -> None:
    """Print a line as it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
