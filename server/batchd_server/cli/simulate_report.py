"""What a simulation found, as JSON, as a table and as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from batchd.simulator import SimulationResult


def describe(result: SimulationResult) -> dict[str, Any]:
    """Return plain JSON values: rates per second, latencies in milliseconds, shares from 0 to 1."""
    return {
        "offered_per_s": result.offered / result.seconds,
        "goodput_per_s": result.goodput_per_s,
        "p50_ms": _ms(result.latency_quantile(0.50)),
        "p99_ms": _ms(result.latency_quantile(0.99)),
        "refused": result.refused,
        "expired": result.expired,
        "device_busy": result.device_busy,
        "training_share": result.training_share,
        "padding_waste": result.padding_ratio,
        "mean_batch": result.mean_batch,
        "failed": result.failed,
        "ooms": result.ooms,
        "devices": result.devices,
    }


def print_results(results: Mapping[str, SimulationResult]) -> None:
    """Print one row per policy."""
    table = Table(box=None, pad_edge=False)
    table.add_column("policy", no_wrap=True)
    for heading in (
        "devices",
        "offered/s",
        "in time/s",
        "p50 ms",
        "p99 ms",
        "refused",
        "expired",
        "failed",
        "busy",
        "training",
        "padding",
        "batch",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for policy, result in results.items():
        table.add_row(
            policy,
            str(result.devices),
            f"{result.offered / result.seconds:.1f}",
            f"{result.goodput_per_s:.1f}",
            f"{result.latency_quantile(0.50) * 1e3:,.0f}",
            f"{result.latency_quantile(0.99) * 1e3:,.0f}",
            f"{result.refused:,}",
            f"{result.expired:,}",
            f"{result.failed:,}",
            f"{result.device_busy:.0%}",
            f"{result.training_share:.0%}",
            f"{result.padding_ratio:.0%}",
            f"{result.mean_batch:.1f}",
        )
    Console(width=None if Console().is_terminal else 160).print(table)


def plot_results(results: Mapping[str, SimulationResult], slo_s: float, path: Path, *, capacity: bool = False) -> None:
    """Draw every policy's latencies, and its goodput or with `capacity` its devices, as the file's ending says."""
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(11.0, 4.2), dpi=110, layout="constrained")
    distribution, bars = figure.subplots(1, 2, width_ratios=(3, 2))
    for policy, result in results.items():
        answered = sorted(result.latencies)
        shares = [100 * (index + 1) / result.offered for index in range(len(answered))]
        distribution.plot([latency * 1e3 for latency in answered], shares, label=policy)
    distribution.axvline(slo_s * 1e3, color="#d98c00", linestyle="--", linewidth=1, label="SLO")
    distribution.set(xscale="log", xlabel="latency, ms", ylabel="answered within, % of what was offered", ylim=(0, 101))
    distribution.legend(frameon=False, fontsize=8)
    names = list(results)
    offered = max(result.offered / result.seconds for result in results.values())
    if capacity:
        drawn = bars.barh(names, [result.devices for result in results.values()], color="#1f6fb4")
        bars.bar_label(drawn, padding=3)
        bars.set(xlabel=f"devices that {offered:.1f} per second need")
    else:
        bars.barh(names, [result.goodput_per_s for result in results.values()], color="#1f6fb4")
        bars.axvline(offered, color="#8c8c8c", linestyle="--", linewidth=1)
        bars.set(xlabel="answered in time per second (dashed: offered)")
    bars.invert_yaxis()
    for axes in (distribution, bars):
        axes.grid(visible=True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _ms(seconds: float) -> float | None:
    return None if math.isnan(seconds) else seconds * 1e3
