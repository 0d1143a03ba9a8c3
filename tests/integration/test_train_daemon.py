"""`batchd train` with a real daemon that really trains: a job is followed across a restart, then promoted."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from daemon_rig import ONE_THREAD

from batchd_client import Client
from batchd_server.cli.child_daemon import ChildDaemon, child_daemon

CONFIG = """
[state]
directory = "state"

[models.digit-lines]
entrypoint = "batchd_server.models.digit_lines:DigitLines"
"""
SUBMIT = (
    "submit", "--model", "digit-lines", "--dataset", "digit-lines", "--max-steps", "200", "--schedule", "linear",
    "--set", "every_examples=320", "--set", "start=16", "--min", "16", "--max", "64", "--initial", "16",
    "--lr", "0.003", "--set", "checkpoint.every_steps=10", "--set", "validation.every_steps=10",
)  # fmt: skip

pytestmark = pytest.mark.slow
pytest.importorskip("sklearn")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def daemon_at(port: int, folder: Path, life: int) -> Iterator[ChildDaemon]:
    (folder / "batchd.toml").write_text(CONFIG)
    arguments = ["--config", str(folder / "batchd.toml"), "--port", str(port)]
    with child_daemon(folder / f"daemon-{life}.log", arguments=arguments, environment=ONE_THREAD) as running:
        yield running


def train(url: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "batchd_server.cli.main", "train", *arguments, "--url", url, "--json"]


def test_a_followed_job_goes_on_across_a_restart_and_is_promoted(tmp_path: Path) -> None:
    port = free_port()
    events: list[dict[str, Any]] = []
    with daemon_at(port, tmp_path, 1) as daemon:
        command = train(daemon.url, *SUBMIT, "--follow")
        following = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **ONE_THREAD})
        assert following.stdout is not None
        for line in following.stdout:
            events.append(json.loads(line))
            if events[-1]["kind"] in {"checkpoint", "failed"}:
                break
    try:
        with daemon_at(port, tmp_path, 2) as daemon:
            *later, job = [json.loads(line) for line in following.stdout]
            assert following.wait(timeout=60) == 0, (later, job)
            events += later
            check_events(events)
            check_job(daemon.url, job)
    finally:
        following.kill()
        following.stdout.close()
        following.wait()


def check_events(events: list[dict[str, Any]]) -> None:
    ids = [event["id"] for event in events]
    assert ids == sorted(set(ids))
    kinds = [event["kind"] for event in events]
    assert kinds[:2] == ["created", "started"]
    assert kinds[-1] == "succeeded"
    assert {"resumed", "checkpoint", "validation", "batch_size"} <= set(kinds)


def check_job(url: str, job: dict[str, Any]) -> None:
    assert (job["status"], job["progress"]["step"]) == ("succeeded", 200)
    with Client(url) as client:
        steps = client.training.metrics(job["id"])
        assert [step.step for step in steps] == list(range(1, 201))
        assert steps[-1].examples == sum(step.batch_size or 0 for step in steps)
        losses = [step.loss for step in steps if step.loss is not None]
        assert len(losses) == 200
        assert sum(losses[-10:]) < sum(losses[:10])
        changes = [commit for commit in client.training.journal(job["id"]) if commit.changed]
        assert changes
        assert {commit.size for commit in changes} <= set(range(16, 65))
        saved = client.training.checkpoints(job["id"])
        assert saved[-1].step == 200
        assert sum(checkpoint.best for checkpoint in saved) == 1
        (best,) = [checkpoint.step for checkpoint in saved if checkpoint.best]
        told = subprocess.run(train(url, "promote", job["id"]), capture_output=True, text=True, timeout=60, check=False)
        assert told.returncode == 0, told.stderr
        assert json.loads(told.stdout)["step"] == best
        undone = subprocess.run(
            train(url, "rollback", "digit-lines"), capture_output=True, text=True, timeout=60, check=False
        )
        assert undone.returncode == 0, undone.stderr
        assert client.is_model_ready("digit-lines")
