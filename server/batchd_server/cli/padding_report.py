"""The padding of a data set, as JSON, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from batchd.sampler import ElementBudget, PaddingReport


def describe(report: PaddingReport) -> dict[str, Any]:
    """Return plain JSON values; padding is in percent."""
    limit = report.batch_size
    budget = limit if isinstance(limit, ElementBudget) else None
    return {
        "buckets": report.num_buckets,
        "batch_size": limit.max_items if isinstance(limit, ElementBudget) else limit,
        "element_budget": budget.elements if budget else None,
        "examples": report.num_examples,
        "batches": report.num_batches,
        "waste_percent": report.waste_percent,
        "per_example": asdict(report.per_example),
        "per_batch": asdict(report.per_batch),
    }


def print_table(reports: Sequence[PaddingReport]) -> None:
    """Print one row per report."""
    table = Table(box=None, pad_edge=False, title="padding in percent", title_justify="left")
    for heading in (
        "buckets",
        "batch size",
        "batches",
        "waste",
        "mean of examples",
        "quartiles",
        "mean of batches",
        "quartiles",
        "variance",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for report in reports:
        example, batch = report.per_example, report.per_batch
        table.add_row(
            str(report.num_buckets),
            _batch_size(report),
            f"{report.num_batches:,}",
            f"{report.waste_percent:.1f}",
            f"{example.mean:.1f}",
            f"{example.lower_quartile:.1f} {example.median:.1f} {example.upper_quartile:.1f}",
            f"{batch.mean:.1f}",
            f"{batch.lower_quartile:.1f} {batch.median:.1f} {batch.upper_quartile:.1f}",
            f"{batch.variance:.1f}",
        )
    Console(width=None if Console().is_terminal else 120).print(table)


def plot_table(table: Sequence[Sequence[PaddingReport]], path: Path) -> None:
    """Draw the waste over the number of buckets, one line per batch size, as the file's ending says."""
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(7.0, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    for column in zip(*table, strict=True):
        numbers = [report.num_buckets for report in column]
        axes.plot(numbers, [report.waste_percent for report in column], marker="o", label=_batch_size(column[0]))
    axes.set(xscale="log", xlabel="buckets", ylabel="padded elements without data, %", ylim=(0, None))
    axes.legend(title="batch size", frameon=False, fontsize=8)
    axes.grid(visible=True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _batch_size(report: PaddingReport) -> str:
    limit = report.batch_size
    return f"{limit.elements:,}/{limit.max_items}" if isinstance(limit, ElementBudget) else str(limit)
