"""Serving and training on one device: leases, idle gaps alone, and two programs that know nothing of each other.

    python benchmarks/colocation.py --seconds 60 --out colocation.json

One run, one machine, one torch thread per program. Texts arrive at a share of the saturated rate while `digit-lines` is
trained:

    alone       training with nothing to serve, and serving with nothing to train
    leases      one daemon does both, the device lent by slack
    idle gaps   the same with `[training] priority = 0`
    spatial     the same with `[training] split = "space"`: a core more, and each of the two has one
    unmanaged   one daemon serves, another trains: on the same core, as on one device, and on a core each

Device processes are pinned to the core, or the two, that they share, where the system can pin; fronts and the load
tester have the others, as far as there are any. Training is
counted in examples per second; the closed form's share of what it does alone comes from the fixed cost, the cost per
item and the loss per lease as measured here. Needs the extras server, text and demo.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import numpy as np
import psutil
from prometheus_client.parser import text_string_to_metric_families

from batchd.leasing.share import lease_seconds, training_share
from batchd_client import Client, encode_infer
from batchd_client.loadtest import (
    ClosedLoad,
    LoadReport,
    OpenLoad,
    Payload,
    Target,
    run_closed_loop,
    run_open_loop,
)
from batchd_server.cli.child_daemon import ChildDaemon, child_daemon

sys.path.insert(0, str(Path(__file__).parent))
from text_workload import draw_passages

SLO_S = 0.25
WARMUP_S = 5.0
FOREVER = 1_000_000
LEASES = "leases"
TEXT = """
[models.text-encoder]
entrypoint = "batchd_server.models.text_encoder:TextEncoder"
[models.text-encoder.batching]
slo_ms = 250
"""
DIGITS = """
[models.digit-lines]
entrypoint = "batchd_server.models.digit_lines:DigitLines"
"""
DEVICE = '[device]\nname = "cpu"\nthreads = 1\n[training]\npriority = {priority}\nsplit = "{split}"\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What was measured while a phase lasted."""

    name: str
    examples_per_s: float | None = None
    """That were trained on."""
    answered_per_s: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    in_time: float | None = None
    """Share of the requests that were answered within the SLO."""
    serving: float | None = None
    """Share of the time in which the device ran batches."""
    lent: float | None = None
    """Share of the time in which it was lent."""
    items_per_batch: float | None = None


class Meter:
    """The counters of a daemon, as what they grew by since the meter was made."""

    def __init__(self, daemon: ChildDaemon) -> None:
        self._url = f"{daemon.url}/metrics"
        self._before = self._read()

    def _read(self) -> dict[tuple[str, str | None], float]:
        text = httpx.get(self._url, timeout=30.0).raise_for_status().text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        totals: dict[tuple[str, str | None], float] = {}
        for sample in samples:
            key = sample.name, sample.labels.get("model")
            totals[key] = totals.get(key, 0.0) + sample.value
        return totals

    def growth(self, name: str, model: str | None = None) -> float:
        """Return what a counter, summed over all labels but the model, grew by."""
        return self._read().get((name, model), 0.0) - self._before.get((name, model), 0.0)

    def shares(self, seconds: float) -> dict[str, float]:
        """Return what became of the device's time in so many seconds, and how full batches were, as `Phase` says it."""
        batches = self.growth("batchd_batch_execution_seconds_count", "text-encoder")
        return {
            "serving": self.growth("batchd_batch_execution_seconds_sum", "text-encoder") / seconds,
            "lent": self.growth("batchd_training_lease_seconds_total") / seconds,
            "items_per_batch": self.growth("batchd_batch_size_items_sum", "text-encoder") / max(1.0, batches),
        }


@contextmanager
def daemon(
    folder: Path, name: str, models: str, *, priority: float = 1.0, split: str = "time"
) -> Iterator[ChildDaemon]:
    """Run a daemon with some models."""
    config = folder / f"{name}.toml"
    config.write_text(DEVICE.format(priority=priority, split=split) + models)
    arguments = ["--config", str(config)]
    with child_daemon(folder / f"{name}.log", arguments=arguments, environment={"OMP_NUM_THREADS": "1"}) as running:
        yield running


def pin_device(running: ChildDaemon, *cores: int) -> None:
    """Keep the device process of a daemon on some cores, and its other processes off them, if others are left."""
    if not hasattr(os, "sched_setaffinity"):
        return
    others = os.sched_getaffinity(0) - {*cores} or os.sched_getaffinity(0)
    device_pid = status(running)["device"]["pid"]
    for process in psutil.Process(running.process.pid).children(recursive=True):
        for thread in process.threads():
            with suppress(ProcessLookupError):  # it has ended
                os.sched_setaffinity(thread.id, cores if process.pid == device_pid else others)


def payloads(count: int, seed: int, deadline_s: float | None) -> list[Payload]:
    """One pre-encoded request per text."""
    encoded = [
        encode_infer("text-encoder", {"text": np.array([passage.text.encode()], dtype=object)}, timeout_s=deadline_s)
        for passage in draw_passages(count, seed)
    ]
    return [Payload(path=e.path, headers=e.headers, body=e.body, size=1, items=1) for e in encoded]


def submit(client: Client) -> str:
    """Start the job that all phases train: the same seed, batches of 32, nothing but steps."""
    job = client.training.create(
        "digit-lines",
        "digit-lines",
        max_steps=FOREVER,
        optimizer={"name": "adamw", "lr": 1e-3},
        batching={"schedule": {"name": "fixed"}, "initial": 32, "min": 32, "max": 32},
        validation={"every_steps": FOREVER},
        checkpoint={"every_steps": FOREVER},
    )
    give_up = time.monotonic() + 60.0
    while client.training.job(job.id).progress.step < 1:
        if time.monotonic() > give_up:
            raise TimeoutError(f"the job has not begun: {client.training.job(job.id)}")
        time.sleep(0.2)
    return job.id


def examples_per_s(client: Client, job_id: str, seconds: float) -> float:
    """Return how fast a job learns over the next `seconds`."""
    before, begun = client.training.job(job_id).progress.examples, time.monotonic()
    time.sleep(seconds)
    after = client.training.job(job_id).progress.examples
    return (after - before) / (time.monotonic() - begun)


def loaded(url: str, texts: Sequence[Payload], rate: float, seconds: float, seed: int) -> LoadReport:
    """Send texts at `rate` per second."""
    load = OpenLoad(rate=rate, duration_s=seconds, warmup_s=WARMUP_S, seed=seed)
    return run_open_loop(Target(url=url), texts, load, slo_s=SLO_S, model="text-encoder")


def both(name: str, trains: Client, job_id: str, serves: ChildDaemon, texts: Sequence[Payload], load: Load) -> Phase:
    """Serve and train at the same time."""
    rates: list[float] = []

    shares: list[dict[str, Any]] = []

    def watch() -> None:
        time.sleep(WARMUP_S)
        meter, begun = Meter(serves), time.monotonic()
        rates.append(examples_per_s(trains, job_id, load.seconds))
        shares.append(meter.shares(time.monotonic() - begun))

    watcher = Thread(target=watch)
    watcher.start()
    report = loaded(serves.url, texts, load.rate, load.seconds, load.seed)
    watcher.join()
    return replace(phase(name, report, rates[0]), **shares[0])


def phase(name: str, report: LoadReport, trained: float | None) -> Phase:
    """Put a load report and a training rate together."""
    response = report.response
    assert response is not None, "nothing was answered"
    return Phase(
        name=name,
        examples_per_s=trained,
        answered_per_s=report.completed_rate,
        p50_ms=response.p50 * 1e3,
        p99_ms=response.p99 * 1e3,
        in_time=report.good / report.offered,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the open loops send."""

    rate: float
    seconds: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What the closed form asks for, as measured."""

    rate: float
    fixed_s: float
    per_item_s: float
    switch_s: float

    def share(self) -> float:
        """Return the closed form's share for training."""
        return training_share(
            rate=self.rate, slo_s=SLO_S, fixed_s=self.fixed_s, per_item_s=self.per_item_s, switch_s=self.switch_s
        )

    def lease_s(self) -> float:
        """Return the closed form's lease."""
        return lease_seconds(
            rate=self.rate, slo_s=SLO_S, fixed_s=self.fixed_s, per_item_s=self.per_item_s, switch_s=self.switch_s
        )


def status(running: ChildDaemon) -> dict[str, Any]:
    """Return `/v1/status`."""
    found: dict[str, Any] = httpx.get(f"{running.url}/v1/status", timeout=30.0).raise_for_status().json()
    return found


def fixed_seconds(running: ChildDaemon) -> float:
    """Return what the daemon has learned of a text batch's fixed cost."""
    (model,) = [entry for entry in status(running)["models"] if entry["name"] == "text-encoder"]
    return float(model["latency_fixed_s"] or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One run of the benchmark."""

    folder: Path
    texts: Sequence[Payload]
    patient: Sequence[Payload]
    """The same texts, with all the time that they may need."""
    seconds: float
    share: float
    seed: int
    phases: list[Phase] = field(default_factory=list)
    cores: tuple[int, ...] = tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else (0,)

    def note(self, one: Phase) -> None:
        """Keep a phase, and show it."""
        self.phases.append(one)
        print(json.dumps(asdict(one)), flush=True)

    def leased(self) -> tuple[Load, Costs, float]:
        """Run all that one daemon with leases can; return the load, the costs, and what training does alone."""
        with daemon(self.folder, "leases", TEXT + DIGITS) as running, Client(running.url) as client:
            pin_device(running, self.cores[-1])
            saturating = ClosedLoad(concurrency=128, count=len(self.patient), warmup_s=WARMUP_S)
            target = Target(url=running.url, timeout_s=120.0)
            saturated = run_closed_loop(target, self.patient, saturating, model="text-encoder").completed_rate
            load = Load(rate=self.share * saturated, seconds=self.seconds, seed=self.seed)
            print(f"saturated {saturated:.1f}/s; from here on {load.rate:.1f}/s", flush=True)
            meter = Meter(running)
            self.note(phase("serving alone", loaded(running.url, self.texts, load.rate, load.seconds, load.seed), None))
            fixed_s = fixed_seconds(running)
            batches = meter.growth("batchd_batch_execution_seconds_count", "text-encoder")
            items = meter.growth("batchd_batch_size_items_sum", "text-encoder")
            busy_s = meter.growth("batchd_batch_execution_seconds_sum", "text-encoder")
            job_id = submit(client)
            meter, begun = Meter(running), time.monotonic()
            alone = examples_per_s(client, job_id, load.seconds)
            leases = meter.growth("batchd_training_leases_total")
            lent_s = meter.growth("batchd_training_lease_seconds_total")
            switch_s = max(0.0, time.monotonic() - begun - lent_s) / max(1.0, leases)
            self.note(Phase(name="training alone", examples_per_s=alone))
            per_item_s = (busy_s - batches * fixed_s) / items
            self.note(both(LEASES, client, job_id, running, self.texts, load))
        return load, Costs(rate=load.rate, fixed_s=fixed_s, per_item_s=per_item_s, switch_s=switch_s), alone

    def one_daemon(self, name: str, load: Load, *cores: int, **settings: Any) -> None:
        """Serve and train in one daemon, with other settings."""
        with daemon(self.folder, name, TEXT + DIGITS, **settings) as running, Client(running.url) as client:
            pin_device(running, *cores)
            self.note(both(name, client, submit(client), running, self.texts, load))

    def two_daemons(self, name: str, load: Load, core: int) -> None:
        """Serve in one daemon, on the last core, and train in another on `core`."""
        with ExitStack() as stack:
            serving = stack.enter_context(daemon(self.folder, "serving", TEXT))
            training = stack.enter_context(daemon(self.folder, "training", DIGITS))
            client = stack.enter_context(Client(training.url))
            pin_device(serving, self.cores[-1])
            pin_device(training, core)
            self.note(both(name, client, submit(client), serving, self.texts, load))


def main() -> None:
    """Run the benchmark and print what it found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of every phase")
    parser.add_argument("--share", type=float, default=0.4, help="of the saturated rate")
    parser.add_argument("--texts", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            folder=Path(folder),
            texts=payloads(arguments.texts, arguments.seed, None),
            patient=payloads(arguments.texts, arguments.seed, 60.0),
            seconds=arguments.seconds,
            share=arguments.share,
            seed=arguments.seed,
        )
        load, costs, alone = bench.leased()
        first, last = bench.cores[0], bench.cores[-1]
        bench.one_daemon("idle gaps", load, last, priority=0.0)
        bench.one_daemon("spatial split", load, first, last, split="space")
        bench.two_daemons("unmanaged, one core", load, last)
        bench.two_daemons("unmanaged, a core each", load, first)
    report(bench.phases, costs, alone)
    if arguments.out is not None:
        found = {"phases": [asdict(one) for one in bench.phases], "costs": asdict(costs), "closed_form": costs.share()}
        arguments.out.write_text(json.dumps(found, indent=2) + "\n")


def report(phases: Sequence[Phase], costs: Costs, alone: float) -> None:
    """Print the table and what the closed form says."""
    print(
        f"\n{'':24}{'trained/s':>10}{'of alone':>10}{'p50 ms':>8}{'p99 ms':>8}{'in time':>9}{'serving':>9}{'lent':>7}"
    )
    for one in phases:
        trained = (
            ("", "")
            if one.examples_per_s is None
            else (f"{one.examples_per_s:.0f}", f"{one.examples_per_s / alone:.2f}")
        )
        served = (
            ("", "", "") if one.p99_ms is None else (f"{one.p50_ms:.0f}", f"{one.p99_ms:.0f}", f"{one.in_time:.3f}")
        )
        time_went = ("", "") if one.serving is None else (f"{one.serving:.2f}", f"{one.lent:.2f}")
        print("{:24}{:>10}{:>10}{:>8}{:>8}{:>9}{:>9}{:>7}".format(one.name, *trained, *served, *time_went))
    (leases,) = [one for one in phases if one.name == LEASES]
    leased, size = leases.examples_per_s, leases.items_per_batch
    assert leased is not None, "leases are for training"
    assert size is not None, "nothing was served beside them"
    share = costs.share()
    cycle_s = (costs.lease_s() + costs.fixed_s) / (1 - costs.rate * costs.per_item_s)
    print(
        f"\nfixed {costs.fixed_s * 1e3:.1f} ms, per item {costs.per_item_s * 1e3:.2f} ms, per lease "
        f"{costs.switch_s * 1e3:.2f} ms: leases of {costs.lease_s() * 1e3:.0f} ms, a share of {share:.3f}; "
        f"measured {leased / alone:.3f}, {leased / alone / share:.2f} of it.\n"
        f"It serves all that came in a cycle, {costs.rate * cycle_s:.1f} items, in one batch; such lengths ran "
        f"{size:.1f} at a time"
    )


if __name__ == "__main__":
    main()
