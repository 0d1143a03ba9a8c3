"""A daemon whose state lies on a disk that fails it, a job that it trains, and a client that checks every answer."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from chaos_rig import MODEL

from batchd_server.cli.child_daemon import ChildDaemon
from batchd_server.training.places import DATABASE

JOBS = "/v1/training/jobs"
PERIOD_S = 0.05
TIMEOUT_S = 90.0
JOB: dict[str, Any] = {
    "model": "chaos",
    "dataset": "digit-lines",  # the rig's model brings its own examples
    "optimizer": {"name": "adamw", "lr": 0.02},
    "batching": {"initial": 16, "min": 8, "max": 64},
    "checkpoint": {"every_steps": 10, "keep": 2},
    "deterministic": True,
    "max_steps": 60,
    "seed": 7,
}


def config(folder: Path, state: Path, *, learn_s: float = 0.05) -> str:
    """Serve and train the rig's model; its steps take so long that a job is still at work when a test acts upon it."""
    folder.mkdir(exist_ok=True)
    shutil.copy(Path(__file__).with_name("trainable_rig.py"), folder)
    (folder / "chaos_model.py").write_text(MODEL)
    return f"""
[device]
name = "cpu"
threads = 1
[state]
directory = "{state}"
trace = "{state}/arrivals.jsonl"
[models.chaos]
entrypoint = "chaos_model:Chaos"
options = {{ learn_s = {learn_s} }}
[models.chaos.batching]
slo_ms = 5000
max_batch_size = 16
"""


@dataclass
class Asker(threading.Thread):
    """Asks for an inference twenty times a second and remembers everything that was not the right answer."""

    url: str
    asked: int = 0
    wrong: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self._ended = threading.Event()

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while not self._ended.wait(PERIOD_S):
                self.asked += 1
                x = np.arange(8, dtype=np.float32).reshape(1, 2, 4) + self.asked
                begun = time.monotonic()
                try:
                    self._ask(client, x)
                except Exception as error:  # noqa: BLE001 - whatever it is, it is no right answer
                    self.wrong.append(repr(error))
                self.slowest_s = max(self.slowest_s, time.monotonic() - begun)

    def _ask(self, client: httpx.Client, x: np.ndarray[Any, Any]) -> None:
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}]}
        answer = client.post("/v2/models/chaos/infer", json=body)
        if answer.status_code != 200 or answer.json()["outputs"][0]["data"] != (x * 2 + 1).ravel().tolist():
            self.wrong.append(f"{answer.status_code}: {answer.text[:300]}")

    def end(self) -> None:
        self._ended.set()
        self.join(60)
        assert not self.is_alive()


@contextmanager
def asked_all_the_time(daemon: ChildDaemon) -> Iterator[Asker]:
    """Ask while the context is open; every answer must have been right."""
    asker = Asker(daemon.url)
    asker.start()
    try:
        yield asker
    finally:
        asker.end()
    assert asker.asked > 5
    assert asker.wrong == [], (asker.wrong[:3], len(asker.wrong), daemon.tail())


class Operator:
    """Looks at a daemon and steers its jobs."""

    def __init__(self, daemon: ChildDaemon) -> None:
        self.daemon = daemon
        self.client = httpx.Client(base_url=daemon.url, timeout=40)

    def submit(self, **changes: Any) -> str:
        made = self.client.post(JOBS, json={**JOB, **changes})
        assert made.status_code == 201, made.text
        job_id: str = made.json()["id"]
        return job_id

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.client.get(f"{JOBS}/{job_id}")
        return dict(answer.json()) if answer.status_code == 200 else {"status": f"{answer.status_code}: {answer.text}"}

    def until(self, job_id: str, condition: Callable[[Mapping[str, Any]], bool]) -> dict[str, Any]:
        give_up = time.monotonic() + TIMEOUT_S
        while not condition(job := self.job(job_id)):
            assert time.monotonic() < give_up, (job, self.daemon.tail())
            assert job["status"] != "failed", job
            time.sleep(0.05)
        return job

    def until_step(self, job_id: str, step: int) -> None:
        self.until(job_id, lambda job: job.get("progress", {}).get("step", 0) >= step)

    def until_status(self, job_id: str, status: str) -> dict[str, Any]:
        return self.until(job_id, lambda job: job["status"] == status)

    def kinds(self, job_id: str) -> list[str]:
        """The events so far, of a job that has ended."""
        text = self.client.get(f"{JOBS}/{job_id}/events").text
        return [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]

    def steps(self, job_id: str) -> list[tuple[int, float]]:
        rows = self.client.get(f"{JOBS}/{job_id}/metrics", params={"limit": 10_000}).raise_for_status().json()["data"]
        return [(row["step"], row["loss"]) for row in rows]

    def status(self) -> dict[str, Any]:
        return dict(self.client.get("/v1/status").raise_for_status().json())

    def training(self) -> dict[str, Any]:
        return dict(self.status()["training"])

    def metrics(self) -> str:
        return self.client.get("/metrics").raise_for_status().text

    def close(self) -> None:
        self.client.close()


@contextmanager
def operator(daemon: ChildDaemon) -> Iterator[Operator]:
    looking = Operator(daemon)
    try:
        yield looking
    finally:
        looking.close()


def weights(state: Path, job_id: str, steps: int = JOB["max_steps"]) -> bytes:
    """The bytes of a job's last checkpoint."""
    return (state / "training" / job_id / f"step-{steps}" / "model.safetensors").read_bytes()


def check_database(state: Path) -> None:
    """SQLite itself finds nothing wrong with the job store."""
    connection = sqlite3.connect(state / DATABASE)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()


def lines_of(daemon: ChildDaemon, *words: str) -> list[str]:
    """The lines of the log that hold one of these."""
    text = daemon.log.read_text(errors="replace")
    return [line for line in text.splitlines() if any(word in line for word in words)]
