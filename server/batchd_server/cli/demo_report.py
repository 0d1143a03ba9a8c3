"""The demonstration's report, for people to read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.bar import Bar
from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table

from batchd_client.loadtest.quantiles import Quantiles
from batchd_client.loadtest.report import LoadReport
from batchd_server.cli.demo_learning import Learning
from batchd_server.cli.demo_readings import Readings

BAR_WIDTH = 44


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """How the answers compare with what was written."""

    lines: int
    right_lines: int
    digits: int
    right_digits: int

    @property
    def of_digits(self) -> float:
        """Share of digits read rightly."""
        return self.right_digits / self.digits

    @property
    def of_lines(self) -> float:
        """Share of lines with every digit right."""
        return self.right_lines / self.lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One part of the traffic."""

    name: str
    report: LoadReport
    padding: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Everything that the report tells."""

    title: str
    phases: Sequence[Phase]
    accuracy: Accuracy
    readings: Readings  # taken at the end
    slo_s: float
    padding: float | None  # of the phases
    learning: Learning | None = None

    @property
    def batch_sizes(self) -> dict[int, int]:
        """Executed batches by size, over all phases."""
        sizes: dict[int, int] = {}
        for phase in self.phases:
            statistics = phase.report.statistics
            for size, count in (statistics.batch_sizes if statistics else {}).items():
                sizes[size] = sizes.get(size, 0) + count
        return dict(sorted(sizes.items()))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "title": self.title,
            "device": dict(self.readings.device),
            "accuracy": {"digits": self.accuracy.of_digits, "lines": self.accuracy.of_lines},
            "padding_waste": self.padding,
            "batch_sizes": {str(size): count for size, count in self.batch_sizes.items()},
            "learning": None if self.learning is None else self.learning.to_dict(),
            "phases": {phase.name: {**phase.report.to_dict(), "padding_waste": phase.padding} for phase in self.phases},
            "processes": [
                {"role": entry.role, "pid": entry.pid, "rss_bytes": entry.rss, "peak_bytes": entry.peak}
                for entry in self.readings.processes
            ],
        }


def print_report(console: Console, findings: Findings) -> None:
    """Print it."""
    console.print()
    console.print(Rule(findings.title))
    learning = [] if findings.learning is None else [_learning(findings.learning, findings.slo_s)]
    for part in (_traffic(findings), _batches(findings.batch_sizes), *learning, _facts(findings)):
        console.print(Padding(part, (1, 0, 0, 2)))
    console.print()


def _traffic(findings: Findings) -> Table:
    """Return one column per phase: three fit on a narrow terminal, nine figures side by side do not."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("requests")
    for phase in findings.phases:
        table.add_column(phase.name, justify="right")
    for label, figure in _figures(findings.slo_s):
        table.add_row(label, *(figure(phase) for phase in findings.phases))
    return table


def _figures(slo_s: float) -> Iterator[tuple[str, Callable[[Phase], str]]]:
    yield (
        "offered, /s",
        lambda phase: "-" if phase.report.mode == "closed" else _rate(phase.report.offered_rate),
    )
    yield "answered, /s", lambda phase: _rate(phase.report.completed_rate)
    yield f"goodput within {slo_s * 1e3:g} ms, /s", lambda phase: _rate(phase.report.goodput)
    yield "latency p50, ms", lambda phase: _latency(phase.report.response, "p50")
    yield "latency p95, ms", lambda phase: _latency(phase.report.response, "p95")
    yield "latency p99, ms", lambda phase: _latency(phase.report.response, "p99")
    yield "refused, or given up as late", lambda phase: _percent(phase.report.failed_fraction)
    yield "items per batch", lambda phase: _batch_size(phase.report)
    yield "padding waste", lambda phase: _percent(phase.padding)


def _rate(value: float) -> str:
    return f"{value:,.0f}"


def _latency(summary: Quantiles | None, name: Literal["p50", "p95", "p99"]) -> str:
    return "-" if summary is None else f"{getattr(summary, name) * 1e3:.1f}"


def _batch_size(report: LoadReport) -> str:
    mean = report.statistics.mean_batch_size if report.statistics else None
    return "-" if mean is None else f"{mean:.1f}"


def _batches(sizes: Mapping[int, int]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("batch size", justify="right")
    table.add_column("batches", justify="right")
    table.add_column("")
    rows = list(grouped(sizes))
    most = max((count for _, count in rows), default=1)
    for label, count in rows:
        table.add_row(label, f"{count:,}", Bar(most, 0, count, width=BAR_WIDTH))
    return table


def grouped(sizes: Mapping[int, int]) -> Iterator[tuple[str, int]]:
    """Yield the batches by ranges that double: 1, 2, 3-4, 5-8 and so on, up to the largest seen."""
    low, high = 1, 1
    largest = max(sizes, default=0)
    while low <= largest:
        count = sum(number for size, number in sizes.items() if low <= size <= high)
        yield (str(low) if low == high else f"{low}-{high}", count)
        low, high = high + 1, high * 2


def _learning(learning: Learning, slo_s: float) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("learning while serving")
    table.add_column("", justify="right")
    traffic = learning.traffic
    in_time = traffic.good / traffic.offered if traffic.offered else None
    for label, figure in (
        ("served accuracy before", _percent(learning.before)),
        ("served accuracy after", _percent(learning.after)),
        ("promotions", f"{len(learning.promotions)}"),
        ("seconds of training", f"{learning.seconds:.1f}"),
        ("training's share of the device", _percent(learning.share)),
        ("requests meanwhile", f"{traffic.offered:,}"),
        ("failed", f"{learning.failed}"),
        ("latency p50, ms", _latency(traffic.response, "p50")),
        ("latency p99, ms", _latency(traffic.response, "p99")),
        (f"answered within {slo_s * 1e3:g} ms", _percent(in_time)),
    ):
        table.add_row(label, figure)
    return table


def _facts(findings: Findings) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column()
    accuracy = findings.accuracy
    table.add_row(
        "answers",
        f"{accuracy.of_digits:.1%} of {accuracy.digits:,} handwritten digits read rightly "
        f"({accuracy.right_lines} of {accuracy.lines} whole lines)",
    )
    table.add_row("padding waste", f"{_percent(findings.padding)} of all elements were padding")
    table.add_row("latency", "counts from when a request was due, not from when it could be sent")
    table.add_row("device", _device(findings.readings))
    for name, text in _memory(findings.readings):
        table.add_row(name, text)
    return table


def _device(readings: Readings) -> str:
    device = readings.device
    extras = [f"{key} {device[key]}" for key in ("threads", "torch") if device.get(key) is not None]
    return ", ".join([str(device.get("name", "unknown")), *extras])


def _memory(readings: Readings) -> Iterator[tuple[str, str]]:
    gauges = {
        name: readings.metrics.get(f"batchd_device_memory_{name}_bytes")
        for name in ("budget", "headroom", "allocated", "reserved", "total")
    }
    known = [f"{name} {_bytes(value)}" for name, value in gauges.items() if value is not None]
    yield "memory", ", ".join(known) or "the device tells nothing"
    for entry in readings.processes:
        yield entry.role, f"resident {_bytes(entry.rss)}, peak {_bytes(entry.peak)} (pid {entry.pid})"


def _bytes(value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
