"""`batchd simulate`: any policy against a virtual clock, before anyone changes production."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchd.controller import Controller
    from batchd.simulator import Arrival, DeviceLaw, SimulationResult, TrainingLaw

BASELINES = (
    "adaptive",
    "window:5:32",
    "buckets:16,32,64,128:5:32",
    "aimd",
    "total-time",
    "threshold:0.6:0.8",
)
MAX_DEVICES = 1024
CAPACITY_SHARE = 0.99
"""Share of the arrivals that must be answered in time for a number of devices to be enough."""


class Traffic(StrEnum):
    """How arrivals follow one another."""

    POISSON = "poisson"
    BURSTY = "bursty"
    DIURNAL = "diurnal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """All but the policy: what every compared policy is given alike."""

    arrivals: Sequence[Arrival]
    seconds: float
    law: DeviceLaw
    slo_s: float
    max_batch_size: int
    seed: int
    known: bool
    """Whether controllers start out with the law of time, as a daemon does that has saved it."""
    training: TrainingLaw | None
    """A job that trains beside the traffic on every device; None = nobody trains."""
    priority: float
    """How much of the deadlines' slack is lent to it, from 0 to 1."""

    def run(self, policy: str, devices: int) -> SimulationResult:
        """Simulate one policy.

        Raises:
            ValueError: there is no such policy.
        """
        from batchd.leasing import TrainingPolicy
        from batchd.simulator import parse_policy, simulate_schedulers

        prepare = self._teach if self.known else None
        scheduler = parse_policy(
            policy,
            slo_s=self.slo_s,
            max_batch_size=self.max_batch_size,
            prepare=prepare,
            training=TrainingPolicy(priority=self.priority),
        )
        return simulate_schedulers(
            self.arrivals,
            scheduler,
            self.law,
            seconds=self.seconds,
            devices=devices,
            seed=self.seed,
            training=self.training,
        )

    def _teach(self, controller: Controller) -> None:
        from batchd.simulator import calibrate
        from batchd.simulator.simulation import MODEL

        longest = max(math.prod(arrival.shape) for arrival in self.arrivals)
        calibrate(controller, MODEL, self.law, longest=longest, max_batch_size=self.max_batch_size)


def simulate(  # noqa: PLR0913, PLR0917 - one parameter per option of the command
    rate: Annotated[float, typer.Option(min=0.001, help="Arrivals per second.")] = 100.0,
    seconds: Annotated[float, typer.Option(min=0.001, help="How long they come.")] = 60.0,
    lengths: Annotated[str, typer.Option(help="Their lengths, e.g. lognormal:MEDIAN:SIGMA:LOW:HIGH.")] = (
        "lognormal:24:1.0:2:256"
    ),
    traffic: Annotated[Traffic, typer.Option(help="How they follow one another.")] = Traffic.POISSON,
    trace: Annotated[
        Path | None, typer.Option(help="A recorded trace instead: JSON lines with t_s, size, deadline_ms.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Replay the trace's requests to this model only.")] = None,
    cost: Annotated[
        str,
        typer.Option(
            help="Seconds of a batch: FIXED:PER_TOKEN[:SQUARE_LENGTH[:TOKENS_CHARGED_AT_LEAST]], "
            "or learned:FILE for what a daemon has saved of a model."
        ),
    ] = "0.002:0.00024",
    noise: Annotated[
        float | None,
        typer.Option(min=0.0, help="Sigma of a log-normal factor on the device's time; as learned, else none."),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="The device's bytes, and a batch's: BYTES:PER_TOKEN[:PER_TOKEN_SQUARED[:FIXED]].")
    ] = None,
    neighbour: Annotated[
        list[str] | None, typer.Option(help="Bytes that another process holds: BYTES:FROM_S[:TO_S]; repeatable.")
    ] = None,
    slowdown: Annotated[
        list[str] | None, typer.Option(help="The device takes so many times as long: FACTOR:FROM_S; repeatable.")
    ] = None,
    know: Annotated[
        bool, typer.Option("--know", help="The controller knows the cost at the start, and need not learn it.")
    ] = False,
    slo_ms: Annotated[float, typer.Option(min=0.001, help="Deadline of every arrival.")] = 250.0,
    policy: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(BASELINES)}; repeatable.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Compare the policies; all of them if none is named.")] = (
        False
    ),
    devices: Annotated[int, typer.Option(min=1, max=MAX_DEVICES, help="Devices that share the load.")] = 1,
    capacity: Annotated[
        bool, typer.Option("--capacity", help="Find how many devices the load needs to keep the SLO.")
    ] = False,
    max_batch: Annotated[int, typer.Option(min=1, help="Largest batch, where the policy does not say.")] = 64,
    train: Annotated[bool, typer.Option("--train", help="A training job wants the device all the time.")] = False,
    train_cost: Annotated[str, typer.Option(help="Seconds of its microbatches: FIXED:PER_ITEM.")] = "0.0002:0.0002",
    train_priority: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Share of the deadlines' slack that is lent to it; 0 = idle gaps only."),
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same run.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw latencies and goodput to this file.")] = None,
) -> None:
    """Run a batching policy against a virtual clock: no device, no waiting, the controller's own code."""
    from batchd.simulator import parse_training
    from batchd_server.cli.simulate_device import device_law
    from batchd_server.cli.simulate_report import describe, plot_results, print_results

    try:
        if plot is not None:
            from batchd_client.loadtest.plot import check_plotting

            check_plotting(plot)
        arrivals, seconds = (
            _synthetic(rate, seconds, lengths, traffic, slo_ms / 1e3, seed)
            if trace is None
            else _replayed(trace, model, slo_ms / 1e3)
        )
        experiment = Experiment(
            arrivals=arrivals,
            seconds=seconds,
            law=device_law(cost, noise, memory, neighbour or (), slowdown or ()),
            slo_s=slo_ms / 1e3,
            max_batch_size=max_batch,
            seed=seed,
            known=know,
            training=parse_training(train_cost, noise or 0.0) if train else None,
            priority=train_priority,
        )
        policies = policy or (list(BASELINES) if compare else ["adaptive"])
        if len(policies) > 1 and not compare:
            raise ValueError("several policies are compared with --compare")
        if capacity:
            counts = {name: _enough_devices(experiment, name) for name in policies}
        else:
            counts = dict.fromkeys(policies, devices)
        results = {name: experiment.run(name, count) for name, count in counts.items()}
    except (ValueError, OSError) as error:
        typer.echo(f"batchd simulate: {error}", err=True)
        raise typer.Exit(2) from None
    if as_json:
        described = {name: describe(result) for name, result in results.items()}
        print(json.dumps(described if compare else next(iter(described.values())), indent=2))
    else:
        print_results(results)
    if plot is not None:
        plot_results(results, experiment.slo_s, plot, capacity=capacity)


def _synthetic(
    rate: float, seconds: float, lengths: str, traffic: Traffic, slo_s: float, seed: int
) -> tuple[Sequence[Arrival], float]:
    from batchd.simulator import bursty_arrivals, diurnal_arrivals, parse_lengths, poisson_arrivals

    rng = random.Random(seed)  # noqa: S311 - traffic, not secrets
    make = {
        Traffic.POISSON: poisson_arrivals,
        Traffic.BURSTY: bursty_arrivals,
        Traffic.DIURNAL: diurnal_arrivals,
    }[traffic]
    arrivals = make(rng, rate, seconds, parse_lengths(lengths, rng), slo_s)
    if not arrivals:
        raise ValueError("nothing arrives: raise --rate or --seconds")
    return arrivals, seconds


def _replayed(path: Path, model: str | None, slo_s: float) -> tuple[Sequence[Arrival], float]:
    from batchd.simulator import Arrival
    from batchd_client.loadtest.recorded_trace import read_trace

    rows = [row for row in read_trace(path) if model is None or row.model == model]
    if not rows:
        raise ValueError(f"{path}: no request to model {model!r} in it")
    arrivals = [
        Arrival(
            time=row.at - rows[0].at,
            shape=(row.size or 1,),
            slo_s=slo_s if row.deadline_s is None else row.deadline_s,
        )
        for row in rows
        for _ in range(row.items)
    ]
    return arrivals, max(arrivals[-1].time, 1e-3)


def _enough_devices(experiment: Experiment, policy: str) -> int:
    """Return the least number of devices with which nearly all arrivals are answered in time.

    Raises:
        ValueError: not even `MAX_DEVICES` are enough.
    """

    def enough(count: int) -> bool:
        result = experiment.run(policy, count)
        return result.in_time >= CAPACITY_SHARE * result.offered

    high = 1
    while not enough(high):
        high *= 2
        if high > MAX_DEVICES:
            raise ValueError(f"{policy}: not even {MAX_DEVICES} devices keep the SLO")
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
