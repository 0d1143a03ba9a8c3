"""Training on cores of its own: a job runs at the same time as requests, and learns the same to the bit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from daemon_rig import daemon

from batchd_client import Client

pytestmark = pytest.mark.slow
pytest.importorskip("sklearn")

CONFIG = """
[device]
name = "cpu"
threads = 1
[state]
directory = "{state}"
[training]
split = "{split}"
[models.digit-lines]
entrypoint = "batchd_server.models.digit_lines:DigitLines"
[defaults.batching]
slo_ms = 60000
"""
JOB: dict[str, Any] = {
    "max_steps": 8,
    "deterministic": True,
    "seed": 3,
    "batching": {"schedule": {"name": "fixed"}, "initial": 8, "min": 8, "max": 8},
    "validation": {"every_steps": 4},
    "checkpoint": {"every_steps": 4},
}
PATIENCE_S = 240.0


@contextmanager
def serving(folder: Path, split: str) -> Iterator[Client]:
    folder.mkdir()
    config = CONFIG.format(state=folder / "state", split=split)
    with daemon(folder, config) as running, Client(running.url) as client:
        yield client


def learned(client: Client, folder: Path, ask: Callable[[], None]) -> bytes:
    """Train, while `ask` is called again and again, and return the last weights."""
    job = client.training.create("digit-lines", "digit-lines", **JOB)
    give_up = time.monotonic() + PATIENCE_S
    while (found := client.training.job(job.id)).status not in ("succeeded", "failed"):
        assert time.monotonic() < give_up, found
        ask()
    assert found.status == "succeeded", found.reason
    assert found.progress.step == JOB["max_steps"]
    return (folder / "state" / "training" / job.id / "step-8" / "model.safetensors").read_bytes()


def test_a_job_beside_requests_learns_the_same_bits_as_one_between_them(tmp_path: Path) -> None:
    with serving(tmp_path / "time", "time") as client:
        between = learned(client, tmp_path / "time", lambda: time.sleep(0.1))

    image = np.random.default_rng(1).random((1, 8, 48), dtype=np.float32)
    seen: list[dict[str, Any]] = []
    with serving(tmp_path / "space", "space") as client:
        alone = client.infer("digit-lines", {"image": image})["scores"]

        def ask() -> None:
            answered = client.infer("digit-lines", {"image": image})["scores"]
            np.testing.assert_allclose(answered, alone, rtol=1e-4, atol=1e-5)
            seen.append(client.status())

        beside = learned(client, tmp_path / "space", ask)
        last = client.status()

    assert beside == between
    busy = [each for each in seen if each["leases"]["running"] is not None]
    assert busy, "every look found the cores of training idle"
    names = {tenant["name"] for each in busy for tenant in each["leases"]["tenants"]}
    assert {each["leases"]["running"] for each in busy} <= names
    assert all(each["leases"]["bound_by"] is None for each in seen), "requests do not bind it"
    assert max(each["training"]["share"] for each in seen) > 0
    assert last["leases"]["tenants"] == []
    assert last["training"]["jobs"] == {"succeeded": 1}
