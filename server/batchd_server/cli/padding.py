"""`batchd padding`: what padding costs, for every number of buckets and batch size, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def padding(  # noqa: PLR0913, PLR0917 - one parameter per option of the command
    sizes: Annotated[
        str, typer.Argument(help="A file (.jsonl, .csv, .npy), or a law: lognormal:MEDIAN:SIGMA:LOW:HIGH, ...")
    ],
    batch_sizes: Annotated[str, typer.Option("--batch-size", help="Examples per batch, comma-separated.")] = "16,32,64",
    elements: Annotated[
        int | None, typer.Option(min=1, help="A budget of padded elements; the batch size caps the examples.")
    ] = None,
    buckets: Annotated[str, typer.Option(help="Numbers of buckets, comma-separated.")] = "1,2,4,8,16,32",
    rule: Annotated[str, typer.Option(help="Where buckets end: least-padding or equal-count.")] = "least-padding",
    multiple: Annotated[int, typer.Option(min=1, help="Padded sizes are multiples of this.")] = 1,
    pad_to_bucket: Annotated[
        bool, typer.Option("--pad-to-bucket", help="Pad to the bucket's size, not to the batch's longest.")
    ] = False,
    count: Annotated[int, typer.Option(min=1, help="Examples to make up, where a law is given.")] = 10_000,
    field: Annotated[str, typer.Option(help="Field or column of the file that holds the size.")] = "size",
    seed: Annotated[int, typer.Option(help="Of the shuffle, and of made-up sizes.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the table to this file.")] = None,
) -> None:
    """Report the padding of batches, in percent: per example, per batch, and of all elements."""
    from batchd.sampler import BatchLimit, BucketRule, ElementBudget, padding_table
    from batchd_server.cli.padding_report import describe, plot_table, print_table
    from batchd_server.cli.padding_sizes import read_sizes

    try:
        if plot is not None:
            from batchd_client.loadtest.plot import check_plotting

            check_plotting(plot)
        numbers = _numbers(batch_sizes, "--batch-size")
        limits: list[BatchLimit] = [
            number if elements is None else ElementBudget(elements=elements, max_items=number) for number in numbers
        ]
        table = padding_table(
            read_sizes(sizes, count, seed, field),
            limits,
            _numbers(buckets, "--buckets"),
            rule=BucketRule(rule),
            seed=seed,
            multiple=multiple,
            pad_to_bucket=pad_to_bucket,
        )
    except (ValueError, OSError) as error:
        typer.echo(f"batchd padding: {error}", err=True)
        raise typer.Exit(2) from None
    reports = [report for row in table for report in row]
    if as_json:
        print(json.dumps([describe(report) for report in reports], indent=2))
    else:
        print_table(reports)
    if plot is not None:
        plot_table(table, plot)


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} takes whole numbers and commas, got {text!r}") from None
