"""What a daemon has learned of its device, and the traffic that it saw, put through the simulator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_rig import batchd
from daemon_rig import daemon

from batchd_client import Client

CONFIG = """
[models.digit-lines]
entrypoint = "batchd_server.models.digit_lines:DigitLines"
batching.slo_ms = 5000

[models.other]
entrypoint = "batchd_server.models.digit_lines:DigitLines"
batching.slo_ms = 5000

[state]
directory = "state"
trace = "trace.jsonl"
"""
REQUESTS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a daemon has served, saved its state and stopped."""
    folder = tmp_path_factory.mktemp("daemon")
    rng = np.random.default_rng(1)
    with daemon(folder, CONFIG) as running, Client(running.url) as client:
        for number in range(REQUESTS):
            image = rng.random((1, 8, 8 * int(rng.integers(1, 20))), dtype=np.float32)
            client.infer("other" if number % 6 == 5 else "digit-lines", {"image": image})
    return folder


def simulated(folder: Path, *arguments: str) -> dict[str, Any]:
    learned = folder / "state" / "cost-models" / "digit-lines.json"
    replay = ["simulate", "--trace", str(folder / "trace.jsonl"), "--cost", f"learned:{learned}", "--json"]
    done = batchd(*replay, *arguments)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measured(folder: Path) -> list[float]:
    """The seconds that the daemon has measured."""
    state = json.loads((folder / "state" / "cost-models" / "digit-lines.json").read_text())["state"]
    return sorted(sample[-1] for sample in state["latency"]["samples"])


@pytest.mark.parametrize("knowing", [[], ["--know"]])
def test_production_traffic_is_replayed_on_its_own_devices_law(folder: Path, knowing: list[str]) -> None:
    found = simulated(folder, "--model", "digit-lines", *knowing)
    rows = [json.loads(line) for line in (folder / "trace.jsonl").read_text().splitlines()]
    ours = [row for row in rows if row["model"] == "digit-lines"]
    assert len(ours) == REQUESTS - REQUESTS // 6
    span = ours[-1]["t_s"] - ours[0]["t_s"]
    assert found["offered_per_s"] == pytest.approx(len(ours) / span, rel=0.01)
    assert found["goodput_per_s"] == pytest.approx(found["offered_per_s"], rel=0.01)
    seconds = measured(folder)
    assert 0.5 * seconds[0] <= found["p50_ms"] / 1e3 <= 2 * seconds[-1]


def test_without_noise_the_same_trace_gives_the_same_figures_whatever_the_seed(folder: Path) -> None:
    quiet = ["--noise", "0", "--model", "digit-lines"]
    assert simulated(folder, *quiet, "--seed", "1") == simulated(folder, *quiet, "--seed", "2")
