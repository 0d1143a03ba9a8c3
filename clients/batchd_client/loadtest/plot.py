"""Pictures of a load test. matplotlib is imported only when one is wanted."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from batchd_client.loadtest.report import LoadReport, is_good

FORMATS = (".png", ".svg", ".pdf")
_GOOD, _SERVICE, _BAD, _LIMIT = "#1f6fb4", "#8c8c8c", "#c8372d", "#d98c00"


def check_plotting(path: Path | None = None, option: str = "--plot") -> None:
    """Make sure that a plot can be drawn before a run is spent on it; `option` is the one that asks for it.

    Raises:
        ValueError: matplotlib is not installed, or the file's ending is none of `FORMATS`.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError(f"{option} needs matplotlib: pip install 'batchd[plot]'")
    if path is not None and path.suffix.lower() not in FORMATS:
        raise ValueError(f"{option} {path}: the name must end in {', '.join(FORMATS)}")


def plot_reports(reports: Sequence[LoadReport], path: Path, title: str) -> None:
    """Draw one run over time, or several over their rates, as the file's ending says (PNG, SVG, PDF)."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - optional, and slow to import

    figure: Any = Figure(figsize=(13.0, 4.2), dpi=110, layout="constrained")
    over_time, distribution, throughput = figure.subplots(1, 3)
    if len(reports) == 1:
        _latency_over_time(over_time, reports[0])
        _distribution(distribution, reports[0])
        _throughput_over_time(throughput, reports[0])
    else:
        ordered = sorted(reports, key=_rate)
        complete = [report for report in ordered if not report.stopped_early]
        _latency_over_rate(over_time, complete, [report for report in ordered if report.stopped_early])
        _distributions(distribution, complete, reports[0].slo_s)
        _throughput_over_rate(throughput, complete)
    for axes in (over_time, distribution, throughput):
        axes.grid(visible=True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path)


def _rate(report: LoadReport) -> float:
    return report.offered_rate if report.rate is None else report.rate


def _slo_line(axes: Any, slo_s: float | None, *, vertical: bool = False) -> None:
    if slo_s is not None:
        draw = axes.axvline if vertical else axes.axhline
        draw(slo_s * 1e3, color=_LIMIT, linestyle="--", linewidth=1.2, label=f"SLO {slo_s * 1e3:g} ms")


def _latency_over_time(axes: Any, report: LoadReport) -> None:
    start = min((sample.scheduled for sample in report.samples), default=0.0)
    for wanted, color, label in ((True, _GOOD, "answered"), (False, _BAD, "failed")):
        chosen = [sample for sample in report.samples if sample.ok is wanted]
        if chosen:
            times = [sample.scheduled - start for sample in chosen]
            values = [sample.response_s * 1e3 for sample in chosen]
            axes.plot(
                times,
                values,
                linestyle="",
                marker="." if wanted else "x",
                markersize=3 if wanted else 4,
                alpha=0.6,
                color=color,
                label=f"{label} ({len(chosen)})",
            )
    _slo_line(axes, report.slo_s)
    axes.set(title="Response time", xlabel="scheduled arrival, s", ylabel="ms", ylim=(0, None))
    axes.legend(fontsize=8, loc="best")


def _distribution(axes: Any, report: LoadReport) -> None:
    answered = [sample for sample in report.samples if sample.ok]
    curves = (
        ("response", _GOOD, "-", [sample.response_s for sample in answered]),
        ("service", _SERVICE, "--", [sample.service_s for sample in answered]),
    )
    for label, color, style, values in curves:
        _cdf(axes, values, label=label, color=color, linestyle=style)
    _finish_distribution(axes, report.slo_s)


def _distributions(axes: Any, reports: Sequence[LoadReport], slo_s: float | None) -> None:
    for place, report in enumerate(reports):
        shade = 0.25 + 0.75 * place / max(1, len(reports) - 1)
        values = [sample.response_s for sample in report.samples if sample.ok]
        _cdf(axes, values, label=f"{_rate(report):.1f}/s", color=_GOOD, alpha=shade, linestyle="-")
    _finish_distribution(axes, slo_s)


def _cdf(axes: Any, values: Sequence[float], **style: Any) -> None:
    if values:
        ordered = np.sort(np.asarray(values)) * 1e3
        axes.plot(ordered, np.arange(1, len(ordered) + 1) / len(ordered) * 100, linewidth=1.6, **style)


def _finish_distribution(axes: Any, slo_s: float | None) -> None:
    _slo_line(axes, slo_s, vertical=True)
    axes.set(
        title="Latency distribution", xlabel="ms (log scale)", ylabel="% of answers", xscale="log", ylim=(0, 100.5)
    )
    _plain_ticks(axes.xaxis)
    axes.legend(fontsize=8, loc="best")


def _plain_ticks(axis: Any) -> None:
    """Label a logarithmic axis 1, 2, 5, 10, or by decades where it has many: labels must not run into each other."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter  # noqa: PLC0415 - as matplotlib itself

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _throughput_over_time(axes: Any, report: LoadReport) -> None:
    start = min((sample.scheduled for sample in report.samples), default=0.0)
    # Whole bins: what a shorter last one had counted would look like a drop.
    edges = np.linspace(0.0, report.wall_s, max(2, min(61, int(report.wall_s / 0.25) + 1)))
    width = float(edges[1])
    curves = (
        ("offered", _SERVICE, [sample.scheduled for sample in report.samples]),
        ("answered", _GOOD, [sample.done for sample in report.samples if sample.ok]),
        ("goodput", "#2f9e5f", [sample.done for sample in report.samples if is_good(sample, report.slo_s)]),
    )
    for label, color, times in curves:
        counts, _ = np.histogram(np.asarray(times) - start, bins=edges)
        axes.stairs(counts / width, edges, baseline=None, color=color, linewidth=1.4, label=label)
    axes.set(title="Throughput", xlabel="s", ylabel="requests/s", ylim=(0, None))
    axes.legend(fontsize=8, loc="best")


def _latency_over_rate(axes: Any, reports: Sequence[LoadReport], broken_off: Sequence[LoadReport]) -> None:
    for level, alpha in (("p50", 0.45), ("p95", 0.7), ("p99", 1.0)):
        answered = [report for report in reports if report.response is not None]
        values = [getattr(report.response, level) * 1e3 for report in answered]
        axes.plot(
            [_rate(report) for report in answered],
            values,
            marker="o",
            markersize=4,
            color=_GOOD,
            alpha=alpha,
            label=level,
        )
    slo_s = next((report.slo_s for report in (*reports, *broken_off)), None)
    _slo_line(axes, slo_s)
    if broken_off and slo_s is not None:
        rates = [_rate(report) for report in broken_off]
        axes.plot(rates, [slo_s * 1e3] * len(rates), "x", color=_BAD, label="broken off over the SLO")
    axes.set(title="Response time by rate", xlabel="offered requests/s", ylabel="ms (log scale)", yscale="log")
    _plain_ticks(axes.yaxis)
    axes.legend(fontsize=8, loc="best")


def _throughput_over_rate(axes: Any, reports: Sequence[LoadReport]) -> None:
    rates = [_rate(report) for report in reports]
    axes.plot(rates, rates, color=_SERVICE, linestyle=":", linewidth=1.2, label="offered")
    axes.plot(rates, [r.completed_rate for r in reports], marker="o", markersize=4, color=_GOOD, label="answered")
    axes.plot(rates, [r.goodput for r in reports], marker="o", markersize=4, color="#2f9e5f", label="goodput")
    axes.set(title="Throughput by rate", xlabel="offered requests/s", ylabel="requests/s", ylim=(0, None))
    axes.legend(fontsize=8, loc="best")
