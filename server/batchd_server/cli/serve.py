"""`batchd serve` and `batchd check-config`."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from batchd_server.config.loading import Override, load_settings
from batchd_server.config.problems import ConfigError
from batchd_server.config.settings import Settings

CONFIG_EXIT_CODE = 2

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="BATCHD_CONFIG", help="TOML file; without one, the embedded default model."),
]


def serve(
    config: ConfigFile = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    fronts: Annotated[int | None, typer.Option(help="Front processes that share the port.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Listen where other machines can connect, though without keys.")
    ] = None,
) -> None:
    """Run the daemon until it is told to stop."""
    settings = _load(
        config,
        Override("--host", "server.host", host),
        Override("--port", "server.port", port),
        Override("--fronts", "server.fronts", fronts),
        Override("--device", "device.name", device),
        Override("--log-level", "server.log_level", log_level),
        Override("--insecure", "server.insecure", insecure),
    )
    from batchd_server.observe.logs import configure_logging
    from batchd_server.supervisor.daemon import Daemon

    configure_logging("supervisor", level=settings.server.log_level, form=settings.server.log_format)

    async def run() -> int:
        return await Daemon(settings, _source(config)).run()

    raise typer.Exit(asyncio.run(run()))


def check_config(
    config: ConfigFile = None,
    models: Annotated[bool, typer.Option(help="Also import and construct the models, without weights.")] = True,
) -> None:
    """Check a configuration and print what is in effect, as JSON."""
    settings = _load(config)
    if models:
        from batchd_server.config.model_check import model_problems

        problems = list(model_problems(settings, _source(config)))
        if problems:
            _refuse(ConfigError(problems))
    print(json.dumps(_without_password(settings.model_dump(mode="json")), indent=2))


def _without_password(effective: dict[str, Any]) -> dict[str, Any]:
    if effective["training"]["database"] is not None:
        from sqlalchemy.engine import make_url

        effective["training"]["database"] = make_url(effective["training"]["database"]).render_as_string()
    return effective


def _load(config: Path | None, *overrides: Override) -> Settings:
    try:
        return load_settings(config, overrides)
    except ConfigError as error:
        _refuse(error)


def _refuse(error: ConfigError) -> NoReturn:
    print(error, file=sys.stderr)
    raise typer.Exit(CONFIG_EXIT_CODE)


def _source(config: Path | None) -> str:
    return "default configuration" if config is None else str(config)
