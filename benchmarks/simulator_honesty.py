"""Whether the simulator tells the truth: one trace, through the whole daemon and through `batchd simulate`.

The daemon (HTTP, front process, link, controller, executor) serves a model that does next to nothing on the simulated
device, whose batches take what a cost law says; `batchd loadtest --trace` replays the trace against it. The
simulator runs the same trace and law against a virtual clock. Printed are both, and how far they are apart. What HTTP
and two processes add to an answer is measured in the same run (the mean response less the mean times that the device
process reports), printed, and left out of the comparison: the simulator has neither.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchd.simulator import parse_lengths, poisson_arrivals
from batchd_server.cli.child_daemon import child_daemon

COST = "0.100:0.0015"
LENGTHS = "lognormal:24:1.0:2:256"
SLO_MS = 1250

MODEL = """
from batchd_server.models.padded import PaddedModel
from batchd_server.models.spec import TensorSpec
import torch


class Echo(PaddedModel):
    inputs = [TensorSpec(name="x", datatype="FP32", shape=("n",))]
    outputs = [TensorSpec(name="y", datatype="FP32", shape=("n",))]

    def build(self):
        return torch.nn.Identity()

    def forward(self, batch):
        return {"y": batch["x"] + 1}
"""

CONFIG = f"""
[device]
name = "simulated"
threads = 1

[device.simulated]
cost = "{COST}"

[models.echo]
entrypoint = "echo_model:Echo"

[models.echo.batching]
slo_ms = {SLO_MS}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of the trace."""

    offered: int
    in_time: int
    p50_ms: float
    p99_ms: float
    mean_batch: float
    not_served: int
    overhead_ms: float = 0.0
    """Mean time of a request outside the device process; it is in the quantiles above."""


def write_trace(path: Path, *, rate: float, seconds: float, seed: int) -> None:
    """Write Poisson arrivals as JSON lines."""
    rng = random.Random(seed)  # noqa: S311 - traffic, not secrets
    arrivals = poisson_arrivals(rng, rate, seconds, parse_lengths(LENGTHS, rng), SLO_MS / 1e3)
    path.write_text("".join(f'{{"t_s": {a.time}, "size": {a.shape[0]}}}\n' for a in arrivals))


def through_the_daemon(folder: Path, trace: Path) -> Result:
    """Serve the trace in real time."""
    (folder / "echo_model.py").write_text(MODEL)
    config, report = folder / "batchd.toml", folder / "report.json"
    config.write_text(CONFIG)
    with child_daemon(
        folder / "daemon.log", arguments=["--config", str(config)], environment={"OMP_NUM_THREADS": "1"}
    ) as daemon:
        _batchd("loadtest", "--url", daemon.url, "--trace", trace, "--slo-ms", SLO_MS, "--json", report)
    found = json.loads(report.read_text())["runs"][0]
    offered = found["requests"]["offered"]
    return Result(
        offered=offered,
        in_time=round(found["rates"]["goodput_per_s"] * found["wall_s"]),
        p50_ms=found["response"]["p50_ms"],
        p99_ms=found["response"]["p99_ms"],
        mean_batch=found["server_statistics"]["mean_batch_size"],
        not_served=offered - found["requests"]["succeeded"],
        overhead_ms=found["response"]["mean_ms"]
        - sum(found["batches_seen"][k]["mean_ms"] for k in ("queue", "compute")),
    )


def through_the_simulator(trace: Path) -> Result:
    """Run the trace against a virtual clock."""
    printed = _batchd("simulate", "--trace", trace, "--cost", COST, "--slo-ms", SLO_MS, "--json")
    found: dict[str, Any] = json.loads(printed)
    offered = len(trace.read_text().splitlines())
    seconds = offered / found["offered_per_s"]
    return Result(
        offered=offered,
        in_time=round(found["goodput_per_s"] * seconds),
        p50_ms=found["p50_ms"],
        p99_ms=found["p99_ms"],
        mean_batch=found["mean_batch"],
        not_served=found["refused"] + found["expired"],
    )


def _batchd(*arguments: object) -> str:
    command = [sys.executable, "-m", "batchd_server.cli.main", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Print both columns for every rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[3.0, 5.0, 7.0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"cost {COST}, lengths {LENGTHS}, {SLO_MS} ms, {arguments.seconds:g} s, seed {arguments.seed}\n")
    print("| offered/s | | in time | not served | p50 ms | p99 ms | of it overhead | batch |")
    print("|---|---|---|---|---|---|---|---|")
    for rate in arguments.rates:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            trace = folder / "trace.jsonl"
            write_trace(trace, rate=rate, seconds=arguments.seconds, seed=arguments.seed)
            daemon, simulator = through_the_daemon(folder, trace), through_the_simulator(trace)
        for who, result in (("daemon", daemon), ("simulator", simulator)):
            print(
                f"| {rate:g} | {who} | {result.in_time} of {result.offered} | {result.not_served} | "
                f"{result.p50_ms:.0f} | {result.p99_ms:.0f} | {result.overhead_ms:.1f} | {result.mean_batch:.2f} |",
                flush=True,
            )
        print(
            f"| | apart | {abs(daemon.in_time / simulator.in_time - 1):.1%} | | "
            f"{abs((daemon.p50_ms - daemon.overhead_ms) / simulator.p50_ms - 1):.1%} | "
            f"{abs((daemon.p99_ms - daemon.overhead_ms) / simulator.p99_ms - 1):.1%} | | |"
        )


if __name__ == "__main__":
    main()
