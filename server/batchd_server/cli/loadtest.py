"""`batchd loadtest`: the options. The load generator itself is `batchd_client.loadtest`, and needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

_LOAD, _SENT, _MEASURED, _OUTPUT = "Kind of load (choose one)", "What is sent", "What is measured", "Output"


def loadtest(  # noqa: PLR0913 - one parameter per option is how typer declares them
    *,
    url: Annotated[str, typer.Option(help="Base URL of the server.")] = "http://127.0.0.1:8080",
    model: Annotated[str | None, typer.Option(help="Model to test; may be left out if only one is ready.")] = None,
    api: Annotated[Literal["oip", "embeddings"], typer.Option(help="/v2/models/M/infer, or /v1/embeddings.")] = "oip",
    api_key: Annotated[str | None, typer.Option(envvar="BATCHD_API_KEY", help="Sent as a bearer token.")] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Open loop at this many requests/s (20 if no kind is chosen).", rich_help_panel=_LOAD),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Closed loop with this many users.", rich_help_panel=_LOAD)
    ] = None,
    ramp: Annotated[
        str | None, typer.Option(metavar="FROM:TO:STEPS", help="Open loop in steps of rate.", rich_help_panel=_LOAD)
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Replay recorded arrivals.", rich_help_panel=_LOAD)
    ] = None,
    find_max_rate: Annotated[
        bool,
        typer.Option(
            "--find-max-rate", help="Search the highest rate whose p99 holds --slo-ms.", rich_help_panel=_LOAD
        ),
    ] = False,
    arrivals: Annotated[
        str, typer.Option(metavar="poisson|constant|gamma:CV", help="Gaps between arrivals.", rich_help_panel=_LOAD)
    ] = "poisson",
    speed: Annotated[float, typer.Option(help="Replay a trace this many times as fast.", rich_help_panel=_LOAD)] = 1.0,
    max_rate: Annotated[
        float, typer.Option(help="--find-max-rate tries no higher rate.", rich_help_panel=_LOAD)
    ] = 20_000.0,
    payload: Annotated[
        Literal["auto", "tensors", "texts", "inputs"],
        typer.Option(
            metavar="KIND",
            help="tensors (random), texts, inputs, or auto: texts or inputs if given, else tensors.",
            rich_help_panel=_SENT,
        ),
    ] = "auto",
    lengths: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Sizes of variable axes: lognormal:MEDIAN:SIGMA:LOW:HIGH, uniform:LOW:HIGH, fixed:N, "
            "bimodal:P:LO1:HI1:LO2:HI2 or file:PATH; if left out lognormal:64:0.8:8:256 in steps of 8.",
            rich_help_panel=_SENT,
        ),
    ] = None,
    length_step: Annotated[
        int | None, typer.Option(help="Round lengths up to multiples of this.", rich_help_panel=_SENT)
    ] = None,
    texts: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help='Lines with a "text".', rich_help_panel=_SENT)
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npz|FOLDER", help="Recorded items, without batch axis.", rich_help_panel=_SENT),
    ] = None,
    input_name: Annotated[
        list[str] | None, typer.Option(help="Send only this input; may be repeated.", rich_help_panel=_SENT)
    ] = None,
    items: Annotated[int, typer.Option(help="Items per request.", rich_help_panel=_SENT)] = 1,
    deadline_ms: Annotated[
        float | None, typer.Option(help="Deadline told to the server with each request.", rich_help_panel=_SENT)
    ] = None,
    warmup: Annotated[float, typer.Option(help="Seconds of unmeasured load first.", rich_help_panel=_MEASURED)] = 1.0,
    duration: Annotated[
        float | None, typer.Option(help="Measured seconds, of each step or trial too.", rich_help_panel=_MEASURED)
    ] = None,
    requests: Annotated[
        int | None, typer.Option(help="Measured requests, of each step or trial too.", rich_help_panel=_MEASURED)
    ] = None,
    timeout_ms: Annotated[
        float, typer.Option(help="Give up on an answer after this.", rich_help_panel=_MEASURED)
    ] = 30_000.0,
    slo_ms: Annotated[
        float | None, typer.Option(help="Answers later than this are no goodput.", rich_help_panel=_MEASURED)
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of arrivals and payloads.", rich_help_panel=_MEASURED)] = 0,
    max_connections: Annotated[int, typer.Option(help="Connections at most.", rich_help_panel=_MEASURED)] = 768,
    json: Annotated[
        str | None, typer.Option(metavar="FILE|-", help="Write the report as JSON.", rich_help_panel=_OUTPUT)
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw the report.", rich_help_panel=_OUTPUT)
    ] = None,
) -> None:
    """Send load to a running daemon and measure it, counting latency from when each request was due.

    Exit status: 0 measured, 1 the server cannot be reached or nothing succeeded, 2 bad options.
    """
    from batchd_client.loadtest.command import run_command
    from batchd_client.loadtest.options import LoadTestOptions

    try:
        options = LoadTestOptions(
            url=url,
            model=model,
            api=api,
            api_key=api_key,
            rate=rate,
            concurrency=concurrency,
            ramp=ramp,
            trace=trace,
            speed=speed,
            find_max_rate=find_max_rate,
            max_rate=max_rate,
            arrivals=arrivals,
            payload=payload,
            lengths=lengths,
            length_step=length_step,
            texts=texts,
            inputs=inputs,
            input_names=tuple(input_name or ()),
            items=items,
            warmup_s=warmup,
            duration_s=duration,
            requests=requests,
            timeout_s=timeout_ms / 1e3,
            deadline_s=None if deadline_ms is None else deadline_ms / 1e3,
            slo_s=None if slo_ms is None else slo_ms / 1e3,
            seed=seed,
            json=json,
            plot=plot,
            max_connections=max_connections,
        )
    except ValueError as error:
        typer.echo(f"batchd loadtest: {error}", err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(run_command(options))
