"""One, two, five and twenty times what the daemon can do: what it still does, what it says to the rest, what it holds.

    python benchmarks/overload.py --minutes 10 --out overload.json
    python benchmarks/overload.py --model text --multiples 1 2 5

A daemon of its own is driven to saturation by a closed loop, and then by open loops of several times that rate, from
processes beside it. `light` runs on the simulated device, whose batches take no processor: on a machine of few cores
the front and the generator need them. `text` is the text encoder on one core of the CPU. Goodput is answers within the
SLO, counted from when a request was due, to what was due in a step, per second of it; refusals are timed from there as
well. Resident memory is read once a second, and its growth is the slope after the first third of each step. Needs the
extra server (and text).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from batchd_client import encode_infer
from batchd_client.loadtest import ClosedLoad, OpenLoad, Payload, Target, run_closed_loop, run_open_loop
from batchd_server.cli.child_daemon import child_daemon

sys.path.insert(0, str(Path(__file__).parent))

LENGTH = 32
WARMUP_S = 5.0
CONFIG = {
    "light": """
[device]
name = "simulated"
threads = 1
[device.simulated]
cost = "{cost}"
[models.light]
entrypoint = "overload_model:Light"
[models.light.batching]
slo_ms = {slo_ms}
""",
    "text": """
[device]
name = "cpu"
threads = 1
[models.text]
entrypoint = "batchd_server.models.text_encoder:TextEncoder"
[models.text.batching]
slo_ms = {slo_ms}
""",
}
ROLES = {"front": ".front.process", "device": ".device.process", "supervisor": " serve "}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one generator process is to send."""

    url: str
    model: str
    rate: float
    seconds: float
    slo_s: float
    seed: int


@dataclass(slots=True, kw_only=True)
class Seen:
    """What one generator process saw."""

    offered: int
    good: int
    outcomes: dict[str, int]
    response_s: list[float]
    refusal_s: list[float]
    told_when: int
    pauses_s: list[float]
    lag_p99_s: float
    cpu_share: float | None
    warnings: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class Step:
    """One multiple of the saturated rate."""

    multiple: float
    offered_per_s: float
    goodput_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    refused: int
    refused_p50_ms: float | None
    refused_p99_ms: float | None
    told_when: float | None
    """Share of the refusals that carry Retry-After."""
    pause_p50_s: float | None
    outcomes: dict[str, int]
    rss_mib: dict[str, float]
    """Of every process at the end."""
    rss_growth_mib_per_min: dict[str, float]
    generator_lag_p99_ms: float
    warnings: list[str] = field(default_factory=list[str])


def payloads(model: str, seed: int, deadline_s: float | None) -> list[Payload]:
    """Pre-encoded requests: equal ones for `light`, passages of text otherwise."""
    if model == "light":
        given: list[tuple[dict[str, Any], int]] = [({"x": np.ones((1, LENGTH), np.float32)}, LENGTH)]
    else:
        from text_workload import draw_passages

        texts = [passage.text for passage in draw_passages(256, seed)]
        given = [({"text": np.array([text.encode()], dtype=object)}, len(text)) for text in texts]
    encoded = [(encode_infer(model, tensors, timeout_s=deadline_s), size) for tensors, size in given]
    return [Payload(path=e.path, headers=e.headers, body=e.body, size=size, items=1) for e, size in encoded]


def generate(load: Load) -> Seen:
    """Drive an open loop and keep what counts; runs in a process of its own."""
    report = run_open_loop(
        Target(url=load.url),
        payloads(load.model, load.seed, None),
        OpenLoad(rate=load.rate, duration_s=load.seconds, warmup_s=WARMUP_S, seed=load.seed),
        slo_s=load.slo_s,
    )
    refused = [sample for sample in report.samples if sample.outcome.startswith("429")]
    return Seen(
        offered=report.offered,
        good=report.good,
        outcomes=dict(report.outcomes),
        response_s=[sample.response_s for sample in report.samples if sample.ok],
        refusal_s=[sample.response_s for sample in refused],
        told_when=report.told_when,
        pauses_s=[sample.retry_after_s for sample in refused if sample.retry_after_s is not None],
        lag_p99_s=0.0 if report.lag is None else report.lag.p99,
        cpu_share=report.cpu_share,
        warnings=report.warnings,
    )


class MemoryWatch:
    """Reads the resident memory of a daemon's processes once a second."""

    def __init__(self, supervisor: int) -> None:
        self._supervisor = psutil.Process(supervisor)
        self._stop = threading.Event()
        self.readings: list[tuple[float, dict[str, float]]] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Read while the context is open, into a new list."""
        self.readings = []
        self._stop.clear()
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _run(self) -> None:
        while not self._stop.wait(1.0):
            self.readings.append((time.monotonic(), self.read()))

    def read(self) -> dict[str, float]:
        """Return MiB by process, named by its role and id."""
        found: dict[str, float] = {}
        for process in [self._supervisor, *self._supervisor.children(recursive=True)]:
            try:
                command, rss = " ".join(process.cmdline()), process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
            role = next((role for role, part in ROLES.items() if part in f"{command} "), "other")
            found[f"{role} {process.pid}"] = rss / 2**20
        return found

    def growth(self) -> dict[str, float]:
        """Return MiB per minute of every process after the first third, by least squares."""
        later = self.readings[len(self.readings) // 3 :]
        slopes: dict[str, float] = {}
        for name in later[-1][1] if later else ():
            points = [(at, rss[name]) for at, rss in later if name in rss]
            if len(points) >= 3:
                times, sizes = np.array(points).T
                slopes[name] = 60.0 * float(np.polyfit(times - times[0], sizes, 1)[0])
        return slopes


def measure(pool: ProcessPoolExecutor, loads: Sequence[Load], multiple: float, watch: MemoryWatch) -> Step:
    """Put one multiple of the saturated rate on the daemon."""
    with watch.watching():
        seen = list(pool.map(generate, loads))
    responses = [seconds for one in seen for seconds in one.response_s]
    refusals = [seconds for one in seen for seconds in one.refusal_s]
    pauses = [seconds for one in seen for seconds in one.pauses_s]
    outcomes: Counter[str] = Counter()
    for one in seen:
        outcomes.update(one.outcomes)
    return Step(
        multiple=multiple,
        offered_per_s=sum(one.offered for one in seen) / loads[0].seconds,
        goodput_per_s=sum(one.good for one in seen) / loads[0].seconds,
        p50_ms=_quantile_ms(responses, 50),
        p99_ms=_quantile_ms(responses, 99),
        refused=len(refusals),
        refused_p50_ms=_quantile_ms(refusals, 50),
        refused_p99_ms=_quantile_ms(refusals, 99),
        told_when=len(pauses) / len(refusals) if refusals else None,
        pause_p50_s=float(np.median(pauses)) if pauses else None,
        outcomes=dict(outcomes),
        rss_mib={name: round(rss, 1) for name, rss in watch.read().items()},
        rss_growth_mib_per_min={name: round(slope, 2) for name, slope in watch.growth().items()},
        generator_lag_p99_ms=max(one.lag_p99_s for one in seen) * 1e3,
        warnings=sorted({warning for one in seen for warning in one.warnings if "generator" in warning}),
    )


def _quantile_ms(seconds: Sequence[float], percent: float) -> float | None:
    return float(np.percentile(seconds, percent)) * 1e3 if seconds else None


def show(steps: Sequence[Step]) -> None:
    """Print the table, and what makes it less than it seems."""
    peak = max(step.goodput_per_s for step in steps)
    print("\n| x | offered/s | goodput/s | of peak | p50 ms | p99 ms | refused p50 ms | p99 ms | Retry-After |")
    print("|---|---|---|---|---|---|---|---|---|")
    for step in steps:
        figures = (step.p50_ms, step.p99_ms, step.refused_p50_ms, step.refused_p99_ms)
        told = "-" if step.told_when is None else f"{step.told_when:.1%}, p50 {step.pause_p50_s:.2f} s"
        print(
            f"| {step.multiple:g} | {step.offered_per_s:.0f} | {step.goodput_per_s:.1f} "
            f"| {step.goodput_per_s / peak:.3f} | "
            + " | ".join("-" if figure is None else f"{figure:.1f}" for figure in figures)
            + f" | {told} |"
        )
    print("\nresident MiB at the end of each step, and its growth in MiB per minute:")
    for step in steps:
        held = ", ".join(
            f"{name} {rss:.0f} ({step.rss_growth_mib_per_min.get(name, 0.0):+.1f})"
            for name, rss in step.rss_mib.items()
        )
        print(f"{step.multiple:g}x: {held}")
    for step in steps:
        for warning in step.warnings:
            print(f"warning at {step.multiple:g}x: {warning}")


def main() -> None:
    """Run the benchmark and print what it found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(CONFIG), default="light")
    parser.add_argument("--cost", default="0.005:0.0003", help="of the simulated device; the default: about 100/s")
    parser.add_argument("--slo-ms", type=float, default=250.0)
    parser.add_argument("--multiples", type=float, nargs="+", default=[1.0, 2.0, 5.0, 20.0])
    parser.add_argument("--minutes", type=float, default=2.0, help="of all steps together")
    parser.add_argument("--concurrency", type=int, default=64, help="users of the closed loop")
    parser.add_argument("--saturate-seconds", type=float, default=15.0)
    parser.add_argument(
        "--generators", type=int, default=1, help="processes that send; one does 2,000/s on a free core"
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    seconds = max(1.0, arguments.minutes * 60.0 / len(arguments.multiples) - WARMUP_S)
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, log = folder / "batchd.toml", folder / "daemon.log"
        config.write_text(CONFIG[arguments.model].format(cost=arguments.cost, slo_ms=arguments.slo_ms))
        (folder / "overload_model.py").write_text(Path(__file__).with_name("overload_model.py").read_text())
        with (
            child_daemon(log, arguments=["--config", str(config)], environment={"OMP_NUM_THREADS": "1"}) as daemon,
            ProcessPoolExecutor(arguments.generators, mp_context=context) as pool,
        ):
            closed = ClosedLoad(
                concurrency=arguments.concurrency, duration_s=arguments.saturate_seconds, warmup_s=WARMUP_S
            )
            patient = payloads(arguments.model, arguments.seed, deadline_s=60.0)
            report = run_closed_loop(Target(url=daemon.url, timeout_s=120.0), patient, closed)
            saturated = report.completed_rate
            print(f"saturated: {saturated:.1f}/s by {arguments.concurrency} users", flush=True)
            watch = MemoryWatch(daemon.process.pid)
            steps = []
            for multiple in arguments.multiples:
                loads = [
                    Load(
                        url=daemon.url,
                        model=arguments.model,
                        rate=multiple * saturated / arguments.generators,
                        seconds=seconds,
                        slo_s=arguments.slo_ms / 1e3,
                        seed=arguments.seed + number,
                    )
                    for number in range(arguments.generators)
                ]
                steps.append(measure(pool, loads, multiple, watch))
                print(f"{multiple:g}x: goodput {steps[-1].goodput_per_s:.1f}/s, {steps[-1].outcomes}", flush=True)
    show(steps)
    if arguments.out is not None:
        found = {"saturated_per_s": saturated, "slo_ms": arguments.slo_ms, "steps": [asdict(step) for step in steps]}
        arguments.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
