"""What one decision of the controller costs, by the length of the queue.

    python benchmarks/decision_cost.py

Log-normal lengths of 2 to 256; the queue is refilled after every batch, so that it stays as long as it is.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from itertools import count

from batchd import Completed, Controller, Item, ItemId, ModelPolicy, RunBatch
from batchd.simulator import lognormal_lengths

QUEUES = (10, 100, 1_000, 10_000)
DECISIONS = 200
FAR = 1e9


def seconds_of(batch: RunBatch) -> float:
    """What the batch would take on a device of 2 ms and 0.24 ms per token."""
    return 2e-3 + batch.elements * 2.4e-4


def taught(numbers: Iterator[int]) -> Controller:
    """A controller that knows the device and has run full batches of every size."""
    controller = Controller()
    controller.add_model("m", ModelPolicy(slo_s=1e6, max_queue_size=10**6))
    for size in (1, 2, 4, 8, 16, 32, 64):
        for length in (8, 64, 256):
            for _ in range(size):
                controller.offer(
                    Item(id=ItemId(next(numbers)), model="m", shape=(length,), arrived=0, deadline=FAR), 0.0
                )
            while isinstance(batch := controller.next(0.0), RunBatch):
                peak = batch.elements * 1000
                controller.report(Completed(batch_id=batch.batch_id, seconds=seconds_of(batch), peak_bytes=peak))
    return controller


def measure(queue: int) -> tuple[float, float, float]:
    """Return the median microseconds of (next, report, offer) with `queue` items waiting."""
    rng = random.Random(1)  # noqa: S311 - a workload, not a secret
    lengths = lognormal_lengths(rng, 24, 1.0, 2, 256)
    numbers = count()
    controller = taught(numbers)
    times: dict[str, list[float]] = {"next": [], "report": [], "offer": []}

    def offer(num: int) -> None:
        for _ in range(num):
            deadline = FAR + rng.random()
            item = Item(id=ItemId(next(numbers)), model="m", shape=(next(lengths),), arrived=0, deadline=deadline)
            begun = time.perf_counter()
            controller.offer(item, 0.0)
            times["offer"].append(time.perf_counter() - begun)

    offer(queue)
    for _ in range(DECISIONS):
        begun = time.perf_counter()
        batch = controller.next(0.0)
        decided = time.perf_counter()
        assert isinstance(batch, RunBatch)
        outcome = Completed(batch_id=batch.batch_id, seconds=seconds_of(batch), peak_bytes=None)
        reporting = time.perf_counter()
        controller.report(outcome)
        times["report"].append(time.perf_counter() - reporting)
        times["next"].append(decided - begun)
        offer(len(batch.items))
    medians = {name: statistics.median(values) * 1e6 for name, values in times.items()}
    return medians["next"], medians["report"], medians["offer"]


def main() -> None:
    """Print a table."""
    print(f"{'waiting':>8} {'next us':>9} {'report us':>10} {'offer us':>9}")
    for queue in QUEUES:
        print("{:>8} {:>9.0f} {:>10.0f} {:>9.0f}".format(queue, *measure(queue)))


if __name__ == "__main__":
    main()
