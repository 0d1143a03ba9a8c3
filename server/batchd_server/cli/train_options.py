"""What the subcommands of `batchd train` share: options, a client, and errors in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from batchd_client import BadRequest, BatchdError, Client, ConnectionFailed, NotFound, ServerError, TooLarge

REFUSED_EXIT_CODE = 2
FAILED_EXIT_CODE = 1

Url = Annotated[str, typer.Option(envvar="BATCHD_URL", help="Base URL of the daemon.")]
ApiKey = Annotated[str | None, typer.Option(envvar="BATCHD_API_KEY", help="Sent as a bearer token.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id, as `batchd train list` tells it.")]

DEFAULT_URL = "http://127.0.0.1:8080"


@contextmanager
def errors_in_one_line(url: str) -> Iterator[None]:
    """End the process where something goes wrong: with 2 if what was asked for is wrong, else with 1."""
    try:
        yield
    except (BatchdError, ValueError, OSError) as error:
        print(f"batchd train: {_message(error, url)}", file=sys.stderr)
        mistaken = isinstance(error, BadRequest | NotFound | TooLarge | ValueError | OSError)
        raise typer.Exit(REFUSED_EXIT_CODE if mistaken else FAILED_EXIT_CODE) from None


@contextmanager
def daemon(url: str, api_key: str | None) -> Iterator[Client]:
    """Give a client; whatever goes wrong with it ends the process as `errors_in_one_line` says."""
    with errors_in_one_line(url), Client(url, api_key=api_key) as client:
        yield client


def _message(error: Exception, url: str) -> str:
    text = error.message if isinstance(error, ServerError) else str(error)
    if isinstance(error, ServerError) and error.field is not None and error.field not in text:
        text = f"{error.field}: {text}"
    if isinstance(error, ConnectionFailed):
        text = f"{url}: {text}"
    return " ".join(text.split()) or type(error).__name__
