"""The controller against the classic rules on a virtual clock: three workloads, from light load to heavy overload.

    python benchmarks/policies.py [--seconds 60] [--seeds 1,2,3] [--workload text]

Each cell is answers in time per second / p99 in ms of what was answered, over all seeds. Below each table stands the
highest rate at which a policy answers 99 % of what is offered within the deadline, found by bisection.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass

from batchd.simulator import (
    DeviceLaw,
    SimulationResult,
    parse_lengths,
    parse_policy,
    poisson_arrivals,
    simulate_schedulers,
)

POLICIES = ("adaptive", "window:5:32", "buckets:16,32,64,128:5:32", "aimd", "total-time")
HELD = 0.99
LEAST_RATE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What comes, what it costs, and how long it may take."""

    lengths: str
    law: DeviceLaw
    slo_s: float
    rates: tuple[float, ...]

    def run(self, policy: str, rate: float, seconds: float, seed: int) -> SimulationResult:
        """Simulate one policy at one rate."""
        rng = random.Random(seed)  # noqa: S311 - a workload, not a secret
        arrivals = poisson_arrivals(rng, rate, seconds, parse_lengths(self.lengths, rng), self.slo_s)
        scheduler = parse_policy(policy, slo_s=self.slo_s, max_batch_size=64)
        return simulate_schedulers(arrivals, scheduler, self.law, seconds=seconds, seed=seed)

    def holds(self, policy: str, rate: float, seconds: float, seeds: list[int]) -> bool:
        """Return whether nearly all that is offered is answered in time."""
        results = [self.run(policy, rate, seconds, seed) for seed in seeds]
        return sum(result.in_time for result in results) >= HELD * sum(result.offered for result in results)

    def highest_rate(self, policy: str, seconds: float, seeds: list[int]) -> float:
        """Return the highest rate that holds, to 2 %; 0 where not even `LEAST_RATE` does."""
        low, high = 0.0, LEAST_RATE
        while self.holds(policy, high, seconds, seeds):
            low, high = high, 2 * high
        while low and high > 1.02 * low:
            middle = (low + high) / 2
            low, high = (middle, high) if self.holds(policy, middle, seconds, seeds) else (low, middle)
        return low


TEXT = DeviceLaw(fixed=0.002, per_element=0.00024)
GPU = DeviceLaw(fixed=0.002, per_element=0.35e-6, square_length=512, charged_at_least=4096)

WORKLOADS = {
    "text": Workload(lengths="lognormal:24:1.0:2:256", law=TEXT, slo_s=0.25, rates=(20, 60, 80, 100, 150, 400)),
    "bimodal": Workload(lengths="bimodal:0.85:8:16:150:256", law=TEXT, slo_s=0.25, rates=(10, 40, 80, 100, 150, 300)),
    "gpu": Workload(lengths="lognormal:24:1.0:2:256", law=GPU, slo_s=0.05, rates=(100, 1000, 4000, 8000)),
}


def print_table(name: str, workload: Workload, seconds: float, seeds: list[int]) -> None:
    """Print one workload's rates by policies, and the rates that hold."""
    width = max(map(len, POLICIES))
    print(f"\n{name}: {workload.lengths}, deadline {workload.slo_s * 1e3:.0f} ms, {seconds:.0f} s, seeds {seeds}")
    print(f"{'rate':>6} " + " ".join(f"{policy:>{width}}" for policy in POLICIES))
    for rate in workload.rates:
        cells: list[str] = []
        for policy in POLICIES:
            results = [workload.run(policy, rate, seconds, seed) for seed in seeds]
            goodput = sum(result.goodput_per_s for result in results) / len(seeds)
            p99 = max(result.latency_quantile(0.99) for result in results) * 1e3
            cells.append(f"{f'{goodput:.1f} / {p99:,.1f}':>{width}}")
        print(f"{rate:>6} " + " ".join(cells), flush=True)
    rates = (workload.highest_rate(policy, seconds, seeds) for policy in POLICIES)
    print(f"{'holds':>6} " + " ".join(f"{f'{rate:.1f}':>{width}}" for rate in rates), flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[1, 2, 3])
    parser.add_argument("--workload", choices=WORKLOADS, default=None, help="default: all")
    arguments = parser.parse_args()
    for name, workload in WORKLOADS.items():
        if arguments.workload in {None, name}:
            print_table(name, workload, arguments.seconds, arguments.seeds)


if __name__ == "__main__":
    main()
