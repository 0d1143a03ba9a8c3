"""Training loops in processes of their own beside a real daemon: they get on, and nobody waits for them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from daemon_rig import ONE_THREAD, daemon

from batchd_client import AsyncClient, Client
from batchd_server.cli.child_daemon import ChildDaemon
from batchd_server.models.digit_lines.scans import scan_lines

EXAMPLE = Path(__file__).parents[2] / "examples" / "leased_training.py"
SLO_S = 1.0
CONFIG = f"""
[models.digit-lines]
entrypoint = "batchd_server.models.digit_lines:DigitLines"

[models.digit-lines.batching]
slo_ms = {SLO_S * 1000:g}
"""
LIMIT_S = 1.0
"""After which a lease is taken back whose client expects nothing in particular."""
REST_S = 1.0
"""For so long at least a client rests whose lease was taken back."""
PATIENCE_S = 90.0

HOLDER = """
import sys
from batchd_client import Client
with Client(sys.argv[1]) as client:
    for _ in range(2):  # the second one has shown how little it needs
        with client.lease("holder"):
            pass
    with client.lease("holder"):
        print("held", flush=True)
        sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChildDaemon]:
    with daemon(tmp_path_factory.mktemp("daemon"), CONFIG) as started:
        yield started


def child(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, **ONE_THREAD, "CUDA_VISIBLE_DEVICES": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def holder(url: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the device until it is told to go on."""
    process = child("-c", HOLDER, url)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def training(url: str, epochs: int) -> Iterator[subprocess.Popen[str]]:
    """The example's loop; it would wait for its daemon for ever."""
    process = child(str(EXAMPLE), "--url", url, "--epochs", str(epochs))
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def clients(url: str) -> dict[str, dict[str, Any]]:
    data = httpx.get(f"{url}/v1/leases", timeout=PATIENCE_S).json().get("data", [])
    return {told["client"]: told for told in data}


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up, "it did not come about in time"
        time.sleep(0.02)


def waited_s(url: str) -> float:
    """Have a line read; return how long it waited for the device, by the daemon's clock."""
    with Client(url) as client:
        answer = client.infer("digit-lines", {"image": np.zeros((1, 8, 24), np.float32)}, timeout_s=PATIENCE_S)
    return float(answer.parameters["queue_ms"]) / 1000


async def traffic(url: str, rate: float, ended: Callable[[], bool]) -> list[float]:
    """Send lines at random times until `ended`; return how long each answer took."""
    rng = np.random.default_rng(5)
    lines = scan_lines(2, 64)
    seconds: list[float] = []

    async def one(number: int) -> None:
        begun = time.monotonic()
        await client.infer("digit-lines", {"image": lines[number % len(lines)][0][None]}, timeout_s=PATIENCE_S)
        seconds.append(time.monotonic() - begun)

    async with AsyncClient(url) as client, asyncio.TaskGroup() as group:
        number = 0
        while not ended():
            group.create_task(one(number))
            number += 1
            await asyncio.sleep(rng.exponential(1 / rate))
    return seconds


def test_a_plain_loop_trains_while_answers_keep_their_promise(running: ChildDaemon) -> None:
    """A machine that stands still for as long as the promise makes more than one in a hundred late: three attempts."""
    tails: list[float] = []
    while not tails or tails[-1] > SLO_S:
        assert len(tails) < 3, tails
        before = clients(running.url).get("finetune", {"num_leases": 0, "lent_s": 0.0})
        with training(running.url, epochs=3) as loop:
            seconds = asyncio.run(traffic(running.url, 40.0, lambda: loop.poll() is not None))
            output, errors = loop.communicate()
        assert loop.returncode == 0, errors
        losses = [float(line.split()[3].rstrip(",")) for line in output.splitlines()]
        assert len(losses) == 3
        assert losses[-1] < 0.5 * losses[0], "it learned nothing"
        told = clients(running.url)["finetune"]
        assert told["num_leases"] - before["num_leases"] >= 3 * (22 + 1)
        assert told["lent_s"] > before["lent_s"]
        assert len(seconds) > 100
        tails.append(float(np.quantile(seconds, 0.99)))


@pytest.mark.parametrize("fate", [signal.SIGKILL, signal.SIGSTOP])
def test_a_loop_that_dies_or_hangs_with_the_device_delays_nobody_for_longer_than_its_lease(
    running: ChildDaemon, fate: signal.Signals
) -> None:
    until(lambda: clients(running.url).get("holder", {"rests_s": 0.0})["rests_s"] == 0)
    before = clients(running.url).get("holder", {"num_expired": 0})["num_expired"]
    with holder(running.url) as process:
        begun = time.monotonic()
        process.send_signal(fate)
        assert waited_s(running.url) < LIMIT_S + 10, "nothing else would end the lease of one that hangs"
        told = clients(running.url)["holder"]
        assert (told["holds"], told["num_expired"]) == (None, before + 1)
        assert told["rests_s"] > 0 or time.monotonic() - begun > LIMIT_S + REST_S / 2, "it rests"
        if fate is signal.SIGSTOP:
            process.send_signal(signal.SIGCONT)
            _, errors = process.communicate("\n", timeout=PATIENCE_S)
            assert process.returncode == 0
            assert "LeaseExpired: holder held lease-" in errors


def test_whoever_leaves_while_it_waits_is_forgotten(running: ChildDaemon) -> None:
    body = b'{"client": "leaver", "timeout_s": 60, "expected_s": 60}'  # far longer than the SLO allows
    request = b"POST /v1/leases HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    url = httpx.URL(running.url)
    with socket.create_connection((url.host, url.port or 80)) as connection:
        connection.sendall(request)
        until(lambda: clients(running.url).get("leaver", {"waiting": 0})["waiting"] == 1)
    until(lambda: clients(running.url)["leaver"]["waiting"] == 0)
    assert clients(running.url)["leaver"]["num_leases"] == 0


def test_a_loop_survives_the_death_of_every_process_of_the_daemon(tmp_path: Path) -> None:
    with daemon(tmp_path, CONFIG) as running, training(running.url, epochs=8) as loop:

        def gets_on() -> bool:
            assert loop.poll() is None, "the loop has ended before its daemon was harmed"
            return clients(running.url).get("finetune", {"num_leases": 0})["num_leases"] > 5

        until(gets_on)
        os.kill(httpx.get(f"{running.url}/v1/status", timeout=60).json()["device"]["pid"], signal.SIGKILL)
        until(lambda: _answers(running.url) and gets_on())  # the new device process counts anew
        os.kill(httpx.get(f"{running.url}/v1/status", timeout=60).json()["fronts"][0]["pid"], signal.SIGKILL)
        output, errors = loop.communicate(timeout=2 * PATIENCE_S)
        assert loop.returncode == 0, errors
        assert len(output.splitlines()) == 8
        assert waited_s(running.url) < PATIENCE_S


def _answers(url: str) -> bool:
    return httpx.get(f"{url}/v1/leases", timeout=60).status_code == 200


def test_a_daemon_that_stops_does_not_wait_for_who_waits_for_the_device(tmp_path: Path) -> None:
    with daemon(tmp_path, CONFIG) as running:
        answers: list[httpx.Response] = []

        def ask() -> None:
            wanted = {"client": "patient", "timeout_s": 300, "expected_s": 60}  # far longer than the SLO allows
            answers.append(httpx.post(f"{running.url}/v1/leases", json=wanted, timeout=PATIENCE_S))

        asking = threading.Thread(target=ask)
        asking.start()
        until(lambda: clients(running.url).get("patient", {"waiting": 0})["waiting"] == 1)
        begun = time.monotonic()
        running.process.terminate()
        running.process.wait(PATIENCE_S)
        asking.join(PATIENCE_S)
        assert time.monotonic() - begun < 15.0, "requests may take 20 s to finish, but this one need not"
    assert answers[0].status_code == 503
    assert answers[0].json()["code"] == "draining"
