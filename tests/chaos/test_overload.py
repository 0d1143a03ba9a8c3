"""Five times what the device can do, for a while: it goes on doing what it can, says no politely, and holds no more."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from daemon_rig import daemon
from light_model import CONFIG, MODEL

from batchd_client import encode_infer
from batchd_client.loadtest import LoadReport, OpenLoad, Payload, Target, run_open_loop
from batchd_server.cli.child_daemon import ChildDaemon

pytestmark = pytest.mark.slow

LENGTH = 32
FIXED_S, PER_ELEMENT_S = 0.005, 0.0015
CAPACITY = 1 / (LENGTH * PER_ELEMENT_S)
"""Items per second in large batches; so few that a busy machine can send and refuse five times as many."""
FACTOR = 5.0
SLO_S = 1.0
SECONDS = 30.0
MAX_QUEUE = 200
GROWTH_MIB = 16.0
"""Of any process, from a third of the way to the end."""


class Watch:
    """Looks at the processes' memory and at the queues while the load lasts."""

    def __init__(self, running: ChildDaemon) -> None:
        self._running = running
        self._over = threading.Event()
        self.rss: list[dict[int, float]] = []
        self.status: list[dict[str, Any]] = []

    @contextmanager
    def looking(self) -> Iterator[None]:
        thread = threading.Thread(target=self._look)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _look(self) -> None:
        with httpx.Client(base_url=self._running.url, timeout=30.0) as client:
            while not self._over.wait(1.0):
                self.rss.append(resident_mib(self._running))
                self.status.append(client.get("/v1/status").raise_for_status().json())


def resident_mib(running: ChildDaemon) -> dict[int, float]:
    supervisor = psutil.Process(running.process.pid)
    held: dict[int, float] = {}
    for process in (supervisor, *supervisor.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            held[process.pid] = process.memory_info().rss / 2**20
    return held


def payload(timeout_s: float | None) -> Payload:
    encoded = encode_infer("light", {"x": np.ones((1, LENGTH), np.float32)}, timeout_s=timeout_s)
    return Payload(path=encoded.path, headers=encoded.headers, body=encoded.body, size=LENGTH)


def open_loop(running: ChildDaemon, factor: float, seconds: float, *, timeout_s: float | None = None) -> LoadReport:
    """Offer `factor` times the capacity; a request that names no timeout has as long as the SLO."""
    load = OpenLoad(rate=factor * CAPACITY, duration_s=seconds, warmup_s=3.0, seed=3)
    return run_open_loop(Target(url=running.url, timeout_s=60.0), [payload(timeout_s)], load, slo_s=SLO_S)


def test_overload_costs_neither_goodput_nor_memory(tmp_path: Path) -> None:
    (tmp_path / "light_models.py").write_text(MODEL)
    config = CONFIG.format(fixed=FIXED_S, per_element=PER_ELEMENT_S, slo_ms=SLO_S * 1e3, max_queue_size=MAX_QUEUE)
    with daemon(tmp_path, config) as running:
        alone = open_loop(running, 0.5, 5.0, timeout_s=30.0)
        watch = Watch(running)
        with watch.looking():
            report = open_loop(running, FACTOR, SECONDS)
        idle_again = open_loop(running, 0.3, 5.0, timeout_s=30.0)
        settled = until_settled(running)

    assert set(alone.outcomes) == {"200"}
    # what it does: batches go on back to back, and nearly nothing is admitted in vain
    assert report.succeeded >= 0.75 * CAPACITY * SECONDS, report.outcomes
    expired = report.outcomes.get("504 deadline_exceeded", 0)
    assert expired <= 0.1 * report.succeeded, report.outcomes
    # what it says: refused for now, and when to come again
    refused = sum(count for outcome, count in report.outcomes.items() if outcome.startswith("429"))
    assert refused + report.succeeded + expired == len(report.samples), report.outcomes
    assert refused > 0.5 * len(report.samples)
    assert report.told_when == refused
    pauses = sorted(sample.retry_after_s for sample in report.samples if sample.retry_after_s is not None)
    assert pauses[len(pauses) * 3 // 4] > 2 * pauses[len(pauses) // 4], "spread, so that they do not return together"
    # what it holds
    first, last = watch.rss[len(watch.rss) // 3], watch.rss[-1]
    assert first.keys() == last.keys(), "no process died"
    assert {pid: last[pid] - first[pid] for pid in last if last[pid] - first[pid] > GROWTH_MIB} == {}
    for status in watch.status:
        assert sum(model["queued"] for model in status["models"]) <= MAX_QUEUE
    # and when it is over
    assert set(idle_again.outcomes) == {"200"}
    assert settled["pending"] == 0


def until_settled(running: ChildDaemon) -> dict[str, Any]:
    """Return the front's counters once nothing is on its way, or after some seconds what there still is."""
    give_up = time.monotonic() + 10.0
    while True:
        front: dict[str, Any] = httpx.get(f"{running.url}/v1/status", timeout=30.0).json()["front"]
        if front["pending"] == 0 or time.monotonic() > give_up:
            return front
