"""`batchd bench`: measurements of the machine and a model, without a daemon."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from batchd_server.models.offline import OfflineResult
    from batchd_server.models.protocol import Model
    from batchd_server.models.spec import Tensors

app = typer.Typer(
    help="Measure a model on this machine.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def bench() -> None:
    """Measure a model on this machine."""


@app.command()
def offline(  # noqa: PLR0913, PLR0917 - one parameter per option of the command
    entrypoint: Annotated[
        str, typer.Option("--entrypoint", "-e", help="The model, as package.module:Class.")
    ] = "batchd_server.models.digit_lines:DigitLines",
    options: Annotated[str, typer.Option(help="The model's options, as a JSON object.")] = "{}",
    file: Annotated[
        Path | None, typer.Option(help="Items, one JSON object per line: {input name: value}. Other keys are ignored.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Items to run, from the start of the file.")] = 500,
    budget: Annotated[int, typer.Option(min=1, help="Padded elements per size-sorted batch.")] = 512,
    step: Annotated[int, typer.Option(min=1, help="Pad to multiples of this; 1 = to the longest of the batch.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Measured rounds; the median is told.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="torch's threads on the CPU.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run a model offline: one by one, in first-come batches, and in size-sorted batches.

    What the size-sorted batches reach is the most that a daemon can reach on this machine with one model.
    """
    import torch

    from batchd.ladder import Multiples
    from batchd_server.config.settings import ModelSettings
    from batchd_server.models.loading import ModelLoadError, construct
    from batchd_server.models.offline import measure_offline

    torch.set_num_threads(threads)
    try:
        model = construct(ModelSettings(entrypoint=entrypoint, options=json.loads(options)))
        items = _read_items(model, file, count)
        target = torch.device(device)
        model.load(target)
    except (ModelLoadError, ValueError, OSError, ModuleNotFoundError) as error:
        typer.echo(f"batchd bench offline: {error}", err=True)
        raise typer.Exit(2) from None
    results = measure_offline(model, items, ladder=Multiples(step), budget=budget, repeats=repeats, device=target)
    conditions = {
        "entrypoint": entrypoint,
        "items": len(items),
        "device": device,
        "threads": threads,
        "budget": budget,
        "step": step,
        "repeats": repeats,
        "torch": torch.__version__,
    }
    if as_json:
        print(json.dumps({**conditions, "results": [asdict(result) for result in results]}, indent=2))
    else:
        _print_table(conditions, results)


def _read_items(model: Model, file: Path | None, count: int) -> list[Tensors]:
    """Return up to `count` preprocessed items, from the file or, for the embedded model, from the scans.

    Raises:
        ValueError: no file where one is needed, or a line that is not an item of the model.
    """
    from batchd_server.models.digit_lines import DigitLines
    from batchd_server.models.digit_lines.scans import scan_lines

    if file is None:
        if not isinstance(model, DigitLines):
            raise ValueError("--file is missing: a file with one JSON object per line")
        return [model.preprocess({"image": image}) for image, _ in scan_lines(seed=0, count=count)]
    items = []
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if number > count:
                break
            try:
                items.append(_item(model, json.loads(line)))
            except ValueError as error:
                raise ValueError(f"{file}, line {number}: {error}") from None
    if not items:
        raise ValueError(f"{file} holds no items")
    return items


def _item(model: Model, row: Any) -> Tensors:
    import numpy as np

    from batchd_server.errors import BadRequest
    from batchd_server.models.validation import split_items

    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    tensors = {}
    for spec in model.inputs:
        if spec.name in row:
            value = row[spec.name]
            array = np.empty((), dtype=object) if spec.datatype == "BYTES" else np.asarray(value, dtype=spec.dtype)
            if spec.datatype == "BYTES":
                array[()] = str(value).encode()
            tensors[spec.name] = array[np.newaxis]
    try:
        (item,) = split_items(model.inputs, tensors)
    except BadRequest as error:
        raise ValueError(error.message) from None
    return model.preprocess(item)


def _print_table(conditions: dict[str, Any], results: list[OfflineResult]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(", ".join(f"{name} {value}" for name, value in conditions.items()), highlight=False)
    table = Table("batches", "items/s", "batches run", "padding", "outside the network")
    for result in results:
        table.add_row(
            result.way,
            f"{result.items_per_s:.1f}",
            str(result.num_batches),
            f"{result.padding_ratio:.1%}",
            f"{result.outside_network:.1%}",
        )
    console.print(table)
