"""`batchd train datasets`: what there is to learn from."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from batchd_client import Dataset
from batchd_server.cli.train_options import DEFAULT_URL, ApiKey, AsJson, Url, daemon
from batchd_server.cli.train_show import plain_console, print_datasets, print_json

app = typer.Typer(help="List the datasets; send, make known or delete one.", invoke_without_command=True)

Name = Annotated[str | None, typer.Option(help="What to call it; the file's name if left out.")]
Format = Annotated[
    str | None,
    typer.Option("--format", help="npz, safetensors, parquet, jsonl or images (a zip); found out if left out."),
]


@app.callback()
def datasets(ctx: typer.Context, *, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List the datasets; send, make known or delete one."""
    if ctx.invoked_subcommand is not None:
        given = [name for name in ctx.params if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"]
        if given:  # they would be ignored, and another daemon asked
            raise typer.BadParameter(f"options go behind {ctx.invoked_subcommand!r}, not before it")
        return
    with daemon(url, api_key) as client:
        found = client.training.datasets()
    if as_json:
        print_json({"data": [asdict(dataset) for dataset in found]})
    else:
        print_datasets(plain_console(), found)


@app.command()
def upload(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to send.")],
    *,
    name: Name = None,
    form: Format = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Send a file to the daemon, which checks and keeps it."""
    with daemon(url, api_key) as client:
        _tell(client.training.upload_dataset(file, name=name, format=form), as_json=as_json)


@app.command()
def adopt(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Where it lies, below the daemon's training.data_root.")],
    *,
    name: Name = None,
    form: Format = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Make known what lies on the daemon's own disk."""
    with daemon(url, api_key) as client:
        _tell(client.training.adopt_dataset(path, name=name, format=form), as_json=as_json)


@app.command()
def delete(
    dataset: Annotated[str, typer.Argument(metavar="ID", help="The dataset's id.")],
    *,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Forget a dataset, and delete what was uploaded."""
    with daemon(url, api_key) as client:
        client.training.delete_dataset(dataset)
    if as_json:
        print_json({"id": dataset, "deleted": True})
    else:
        print(f"{dataset} deleted")


def _tell(dataset: Dataset, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(dataset))
    else:
        print(f"{dataset.id}: {dataset.name}, {dataset.format}, {dataset.examples:,} examples, {dataset.bytes:,} bytes")
