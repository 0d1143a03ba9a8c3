"""Training through the whole daemon by HTTP: jobs outlive the device process, and the daemon."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from daemon_rig import daemon

JOB = {
    "model": "digit-lines",
    "dataset": "digit-lines",
    "epochs": 1000,
    "batching": {"schedule": {"name": "noise_scale"}, "initial": 16, "min": 8, "max": 64},
    "checkpoint": {"every_steps": 5},
}
PATIENCE_S = 120.0


def config(folder: Path) -> str:
    return f'[server]\nport = 0\n[state]\ndirectory = "{folder}/state"\n'


def until(found: Callable[[], Any]) -> Any:
    """Ask until there is an answer."""
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        answer = found()
        if answer:
            return answer
        time.sleep(0.1)
    raise AssertionError("it did not happen")


class Watched:
    """One job, as a client sees it."""

    def __init__(self, client: httpx.Client, job: str) -> None:
        self.client, self.path = client, f"/v1/training/jobs/{job}"

    def get(self, rest: str = "", **query: Any) -> Any:
        return self.client.get(self.path + rest, params=query).raise_for_status().json()

    def ask(self, verb: str) -> str:
        status: str = self.client.post(f"{self.path}/{verb}").raise_for_status().json()["status"]
        return status

    def becomes(self, status: str) -> None:
        def settled() -> Any:
            job = self.get()
            return job if job["status"] in (status, "failed") else None

        job = until(settled)
        assert job["status"] == status, job

    def steps(self, more_than: int) -> int:
        """The last step's number, once it is larger than that."""
        last: int = until(lambda: self.get("/metrics", after_step=more_than)["data"])[-1]["step"]
        return last

    def kinds(self) -> list[str]:
        """What has happened, without checkpoints, validations and changes of the batch size."""
        with self.client.stream("GET", f"{self.path}/events") as response:
            lines = [line.partition(": ")[2] for line in response.iter_lines() if line.startswith("event")]
        return [kind for kind in lines if kind not in ("checkpoint", "validation", "batch_size")]


@pytest.mark.slow
def test_a_job_outlives_the_device_process_and_the_daemon(tmp_path: Path) -> None:
    with daemon(tmp_path, config(tmp_path)) as running, httpx.Client(base_url=running.url, timeout=30) as client:
        made = client.post("/v1/training/jobs", json=JOB)
        assert made.status_code == 201, made.text
        job = Watched(client, made.json()["id"])
        reached = job.steps(more_than=6)
        os.kill(client.get("/v1/status").json()["device"]["pid"], signal.SIGKILL)
        # whoever asks now is answered by the front and the store alone
        assert job.get()["progress"]["step"] > 0
        assert job.get("/journal")["data"][0]["schedule"] == "noise_scale"
        assert job.ask("pause") in ("pausing", "paused")
        job.becomes("paused")
        assert job.ask("resume") == "queued"
        job.becomes("running")
        reached = job.steps(more_than=reached)
        saved = job.get("/checkpoints")["data"]
        assert 1 <= len(saved) <= 3
        assert client.post("/v1/training/jobs", json=JOB).status_code == 201  # a second one, in the same time
    with daemon(tmp_path, config(tmp_path)) as running, httpx.Client(base_url=running.url, timeout=30) as client:
        job.client = client
        reached = job.steps(more_than=reached)
        metrics = job.get("/metrics", limit=100_000)["data"]
        assert [row["step"] for row in metrics] == list(range(1, len(metrics) + 1))  # none twice, none left out
        assert job.ask("cancel") == "cancelling"
        job.becomes("cancelled")
        kinds = job.kinds()
        assert kinds[0] == "created"
        assert kinds[-1] == "cancelled"
        assert kinds.count("paused") == kinds.count("created") == kinds.count("cancelled") == 1
        other = Watched(client, client.get("/v1/training/jobs", params={"limit": 1}).json()["data"][0]["id"])
        other.becomes("running")
        assert client.get("/v1/status").json()["training"]["jobs"] == {"cancelled": 1, "running": 1}
        other.steps(more_than=5)
        last = until(lambda: other.get("/checkpoints")["data"])[-1]["step"]
        promoted = client.post(f"{other.path}/promote", json={"checkpoint": "last"})
        assert promoted.status_code == 200, promoted.text
        assert promoted.json()["step"] >= last
        assert client.post("/v1/models/digit-lines/rollback").status_code == 200
        assert client.post("/v1/models/digit-lines/rollback").status_code == 409  # there is nothing left to undo
