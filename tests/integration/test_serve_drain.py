"""Stopping and renewing a real daemon under load: no request is lost, and none is left without an answer."""

from __future__ import annotations

import asyncio
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import psutil
import pytest
import trainable_rig
from daemon_rig import daemon
from steady_rig import CAPACITY, CONFIG, MODEL, Sample, SteadyClient

from batchd_server.cli.child_daemon import ChildDaemon
from batchd_server.training.store import TrainingStore

JOB = {
    "model": "steady",
    "dataset": "digit-lines",  # the rig's model brings its own examples
    "max_steps": 100_000,
    "batching": {"schedule": {"name": "fixed"}, "initial": 8, "min": 8, "max": 8},
    "checkpoint": {"every_steps": 100_000},
}
IN_TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from batchd_server.cli.main import app
sys.argv[0] = "batchd"
app()
"""
RATE = 0.6 * CAPACITY
PATIENCE_S = 240.0
SHORTLY_S = 5.0
"""Longer than any process stands still between two steps."""


def serve(folder: Path, server: str) -> AbstractContextManager[ChildDaemon]:
    (folder / "steady_model.py").write_text(MODEL)
    shutil.copy(Path(trainable_rig.__file__), folder)
    return daemon(folder, f"[server]\n{server}\n[device]\nname = 'cpu'\n[state]\ndirectory = 'state'\n{CONFIG}")


async def until(condition: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < give_up, f"not within {PATIENCE_S} s: {what}"
        await asyncio.sleep(0.05)


def times_logged(running: ChildDaemon, words: str) -> int:
    return running.log.read_text().count(words)


def front_pids(running: ChildDaemon) -> set[int]:
    found = set()
    for child in psutil.Process(running.process.pid).children():
        try:
            if "batchd_server.front.process" in child.cmdline():
                found.add(child.pid)
        except psutil.NoSuchProcess:
            continue
    return found


def not_served(samples: list[Sample]) -> Counter[str]:
    return Counter(
        f"{sample.status} {sample.trouble} {'reused' if sample.reused else 'new'}"
        for sample in samples
        if not sample.right
    )


@pytest.mark.parametrize("fronts", [1, 2])
def test_replacing_the_fronts_and_then_stopping_loses_no_request(tmp_path: Path, fronts: int) -> None:
    async def scenario(running: ChildDaemon) -> tuple[SteadyClient, float]:
        client, end = SteadyClient(running.url), asyncio.Event()
        sending = asyncio.create_task(client.send_until(end, RATE))
        before = front_pids(running)
        for turn in (1, 2):
            running.process.send_signal(signal.SIGHUP)
            await until(
                lambda turn=turn: times_logged(running, "have been replaced") == turn, "the fronts are replaced"
            )
        assert len(front_pids(running)) == fronts
        assert front_pids(running).isdisjoint(before)
        stopped = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        await until(lambda: running.process.poll() is not None, "the daemon has ended")
        await asyncio.sleep(0.2)  # for a few that find nobody
        end.set()
        await sending
        return client, stopped

    with serve(tmp_path, f"fronts = {fronts}") as running:
        client, stopped = asyncio.run(scenario(running))
        assert running.process.returncode == 0, running.tail()

    earlier = [sample for sample in client.samples if sample.sent < stopped]
    later = [sample for sample in client.samples if sample.sent >= stopped]
    assert len(earlier) > 500
    assert not_served(earlier) == Counter()
    for sample in later:
        if sample.status == 503:
            assert sample.headers["connection"] == "close"
            assert int(sample.headers["retry-after"]) >= 1
    assert {sample.status for sample in later} <= {200, 503, None}, not_served(later)
    assert any(sample.status == 503 for sample in later), "the socket was not open while draining"
    unanswered = [sample for sample in later if sample.status is None]
    # a connection that is made in the moment in which the socket closes is reset instead of refused: no more than those
    cut = [sample for sample in unanswered if not sample.refused]
    assert not any(sample.reused for sample in cut), not_served(later)
    last_answer = max(sample.sent for sample in later if sample.status is not None)
    assert all(sample.sent > last_answer - SHORTLY_S for sample in unanswered), not_served(later)


def test_a_job_is_saved_at_the_stop_and_resumes_there(tmp_path: Path) -> None:
    with serve(tmp_path, "drain_delay_s = 8") as running, httpx.Client(base_url=running.url, timeout=30) as client:
        made = client.post("/v1/training/jobs", json=JOB)
        assert made.status_code == 201, made.text
        job = made.json()["id"]
        asyncio.run(until(lambda: client.get(f"/v1/training/jobs/{job}").json()["progress"]["step"] >= 3, "it trains"))
        running.process.send_signal(signal.SIGTERM)
        # a load balancer is told, and who has not heard yet is served
        asyncio.run(until(lambda: client.get("/v2/health/ready").status_code == 503, "it is not ready"))
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [3.0]}
        assert client.post("/v2/models/steady/infer", json={"inputs": [tensor]}).status_code == 200
        assert running.process.wait(timeout=PATIENCE_S) == 0, running.tail()

    store = TrainingStore.open(f"sqlite:///{tmp_path}/state/batchd.sqlite3")
    (saved,) = store.checkpoints(job)
    assert saved.step == store.job(job).progress.step >= 3
    with serve(tmp_path, "") as running, httpx.Client(base_url=running.url, timeout=30) as client:
        asyncio.run(until(lambda: "resumed" in {event.kind for event in store.events(job, limit=100)}, "it resumes"))
    (resumed,) = [event.data for event in store.events(job, limit=100) if event.kind == "resumed"]
    assert resumed == {"step": saved.step}
    store.close()


def test_a_closed_terminal_stops_the_daemon(tmp_path: Path) -> None:
    terminal, end = pty.openpty()
    (tmp_path / "run").mkdir()
    with (tmp_path / "daemon.log").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", IN_TERMINAL, "serve", "--port", "0"],
            stdin=end,
            stdout=output,
            stderr=output,
            cwd=tmp_path,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_RUNTIME_DIR": str(tmp_path / "run")},
        )
    os.close(end)
    try:
        asyncio.run(until(lambda: "starting at" in (tmp_path / "daemon.log").read_text(), "the daemon has begun"))
        os.close(terminal)
        assert process.wait(timeout=PATIENCE_S) == 0, (tmp_path / "daemon.log").read_text()
    finally:
        process.kill()
        process.wait()
    assert "SIGHUP: finishing what is in flight" in (tmp_path / "daemon.log").read_text()
    assert list((tmp_path / "run").iterdir()) == []
