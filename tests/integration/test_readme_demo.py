"""`batchd demo`, which is what `make demo` runs: a whole report, and nothing left behind however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

DEMO = [sys.executable, "-m", "batchd_server.cli.main", "demo"]
ENVIRONMENT = {**os.environ, "COLUMNS": "100", "PYTHONUNBUFFERED": "1"}


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(pids: list[int], within_s: float = 60.0) -> bool:
    give_up = time.monotonic() + within_s
    while time.monotonic() < give_up:
        if not any(runs(pid) for pid in pids):
            return True
        time.sleep(0.1)
    return False


def test_it_reports_and_leaves_nothing_running(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    findings_file = tmp_path / "findings.json"
    done = subprocess.run(
        [*DEMO, "--seconds", "3", "--train-seconds", "240", "--report", str(findings_file)],
        env={**ENVIRONMENT, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=420,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for part in ("goodput", "latency p99", "batch size", "padding waste", "memory", "device process", "digits read"):
        assert part in done.stdout
    for part in ("training's share", "promoted step", "served accuracy after"):
        assert part in done.stdout
    findings = json.loads(findings_file.read_text())
    sizes = {int(size) for size in findings["batch_sizes"]}
    assert min(sizes) < 4
    assert max(sizes) > 8
    assert findings["accuracy"]["digits"] > 0.95
    assert 0 <= findings["padding_waste"] < 0.35, "far under the 70 % of padding without buckets, however busy this is"
    assert findings["phases"]
    for phase in findings["phases"].values():
        assert phase["rates"]["completed_per_s"] > 0
    check_learning(findings["learning"])
    assert gone([entry["pid"] for entry in findings["processes"]])
    assert list(tmp_path.iterdir()) == [findings_file]


def check_learning(learning: dict[str, Any]) -> None:
    """The loop is closed: what answers is what has been learned meanwhile, and nobody was turned away for it."""
    served = learning["served_accuracy"]
    assert served["before"] < 0.3, "it began by guessing"
    assert served["after"] >= 0.9
    assert learning["failed_requests"] == 0
    assert learning["traffic"]["requests"]["succeeded"] > 100
    promoted = [promotion["validation"] for promotion in learning["promotions"]]
    assert promoted == sorted(promoted)
    assert promoted[-1] >= 0.95
    assert 0 < learning["device_share"] <= 1
    timeline = learning["timeline"]
    assert max(line["batch_size"] or 0 for line in timeline) > 8, "batches grow as the predictions become sure"
    assert [line["step"] for line in timeline] == sorted(line["step"] for line in timeline)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_cleans_up_when_it_is_told_to_stop(number: signal.Signals) -> None:
    pytest.importorskip("sklearn")
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "err").open("wb") as errors:
        demo = subprocess.Popen(
            DEMO, env={**ENVIRONMENT, "TMPDIR": folder}, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        assert demo.stdout is not None
        for line in demo.stdout:
            if "ready at" in line:
                break
        family = [child.pid for child in psutil.Process(demo.pid).children(recursive=True)]
        demo.send_signal(number)
        demo.communicate(timeout=60)
        assert demo.returncode == 128 + number
        assert len(family) >= 2
        assert gone(family)
        assert list(Path(folder).glob("batchd*")) == []


def test_a_daemon_that_cannot_start_is_explained() -> None:
    pytest.importorskip("sklearn")
    done = subprocess.run(
        [*DEMO, "--device", "toaster"], env=ENVIRONMENT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 1
    assert "toaster" in done.stderr
    assert "Traceback" not in done.stderr
