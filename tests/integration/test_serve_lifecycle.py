"""`batchd serve` as an operator meets it: real processes, a real socket, real signals."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

START_S = 180.0
READY = re.compile(r"batchd \S+ ready at (?P<url>http://127\.0\.0\.1:\d+) \(device \S+, models: total\)")

MODEL = '''
import os
import time

import torch

from batchd_server.models.padded import PaddedModel
from batchd_server.models.spec import TensorSpec


class Total(PaddedModel):
    """Adds up its numbers. 666 kills the process, as a driver fault would; -N takes N seconds."""

    inputs = (TensorSpec(name="x", datatype="FP32", shape=("n",)),)
    outputs = (TensorSpec(name="total", datatype="FP32", shape=(1,)),)

    def build(self) -> torch.nn.Module:
        return torch.nn.Identity()

    def forward(self, batch):
        if (batch["x"] == 666).any():
            os._exit(9)
        time.sleep(float((-batch["x"]).clamp(min=0).max()))
        return {"total": batch["x"].sum(1, keepdim=True)}
'''

CONFIG = """
[server]
port = 0
fronts = {fronts}
drain_timeout_s = {drain_timeout_s}

[device]
name = "cpu"

[models.total]
entrypoint = "total_model:Total"

[models.total.batching]
slo_ms = 60000
"""


class Daemon:
    """One `batchd serve` in a directory of its own."""

    def __init__(self, directory: Path, *, fronts: int, drain_timeout_s: float) -> None:
        (directory / "total_model.py").write_text(MODEL)
        (directory / "batchd.toml").write_text(CONFIG.format(fronts=fronts, drain_timeout_s=drain_timeout_s))
        self.runtime = directory / "run"
        self.runtime.mkdir(exist_ok=True)
        self.log = directory / "stderr.txt"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "batchd_server.cli.main", "serve", "--config", "batchd.toml"],
                cwd=directory,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**_environment(), "XDG_RUNTIME_DIR": str(self.runtime)},
            )
        self.url = ""
        # one client, because making one takes longer than the question; a connection each, because fronts are killed
        self._http = httpx.Client(timeout=30, headers={"Connection": "close"})

    def wait_ready(self) -> Daemon:
        """Read the ready line; a daemon that hangs is killed, which ends the reading."""
        assert self.process.stdout is not None
        watchdog = threading.Timer(START_S, self.process.kill)
        watchdog.start()
        line = self.process.stdout.readline()
        watchdog.cancel()
        found = READY.fullmatch(line.strip())
        assert found, f"not the ready line: {line!r}\n{self.log.read_text()}"
        self.url = found["url"]
        return self

    def total(self, *numbers: float, timeout_s: float = 60.0) -> httpx.Response:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, len(numbers)], "data": list(numbers)}
        return httpx.post(f"{self.url}/v2/models/total/infer", json={"inputs": [tensor]}, timeout=timeout_s)

    def connection(self) -> HTTPConnection:
        return HTTPConnection(urlsplit(self.url).netloc, timeout=60)

    def status(self) -> dict:
        return self._http.get(f"{self.url}/v1/status").raise_for_status().json()

    def is_ready(self) -> bool:
        try:
            return self._http.get(f"{self.url}/v2/health/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def until_it_runs(self) -> None:
        _until(lambda: self.status()["queue"]["running_batch"] is not None, "work has reached the device")

    def family(self) -> list[psutil.Process]:
        supervisor = psutil.Process(self.process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def close(self) -> None:
        self._http.close()
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    daemons: list[Daemon] = []

    def start(fronts: int = 1, drain_timeout_s: float = 20.0) -> Daemon:
        daemons.append(Daemon(tmp_path, fronts=fronts, drain_timeout_s=drain_timeout_s))
        return daemons[-1]

    yield start
    for daemon in daemons:
        daemon.close()


def _until(condition: Callable[[], bool], what: str, within_s: float = 60.0) -> None:
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up, f"not within {within_s} s: {what}"
        time.sleep(0.05)


def _is_pending(number: signal.Signals, process: psutil.Process) -> bool:
    found = re.search(r"^ShdPnd:\s*(\w+)$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    assert found
    return bool(int(found[1], 16) >> (number - 1) & 1)


def _all_gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=30)
    return not alive


def test_it_serves_and_a_sigterm_ends_it_with_exit_code_0_and_nothing_left(launch: Callable[..., Daemon]) -> None:
    daemon = launch(fronts=2).wait_ready()
    family = daemon.family()

    assert daemon.total(1, 2, 3).json()["outputs"][0]["data"] == [6.0]
    _until(lambda: len(daemon.status()["fronts"]) == 2, "both fronts known to the device process")
    known = {daemon.process.pid, daemon.status()["device"]["pid"], *(f["pid"] for f in daemon.status()["fronts"])}
    (spare,) = {process.pid for process in family} - known
    assert "spare_process" in " ".join(psutil.Process(spare).cmdline())

    assert daemon.stop() == 0
    assert _all_gone(family[1:])
    assert list(daemon.runtime.iterdir()) == []


def test_what_is_in_flight_at_sigterm_is_answered(launch: Callable[..., Daemon]) -> None:
    daemon = launch().wait_ready()
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(daemon.total, -5, 47)
        daemon.until_it_runs()

        assert daemon.stop() == 0
        assert answer.result(timeout=30).json()["outputs"][0]["data"] == [42.0]


def test_what_a_front_that_stood_still_had_not_read_at_sigterm_is_answered(launch: Callable[..., Daemon]) -> None:
    daemon = launch().wait_ready()
    front = psutil.Process(daemon.status()["fronts"][0]["pid"])
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [40, 2]}]})
    with closing(daemon.connection()) as known, closing(daemon.connection()) as new:
        known.request("GET", "/v2/health/live")
        assert known.getresponse().read() is not None
        front.suspend()
        for connection in (known, new):
            connection.request("POST", "/v2/models/total/infer", body)
        daemon.process.send_signal(signal.SIGTERM)
        _until(lambda: _is_pending(signal.SIGTERM, front), "the front is told to stop")
        front.resume()

        for connection in (known, new):
            answer = connection.getresponse()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert json.loads(answer.read())["outputs"][0]["data"] == [42.0]
    assert daemon.process.wait(timeout=60) == 0


def test_what_outlasts_the_drain_timeout_is_told_to_come_back(launch: Callable[..., Daemon]) -> None:
    daemon = launch(drain_timeout_s=0.5).wait_ready()
    family = daemon.family()
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(daemon.total, -60)
        daemon.until_it_runs()

        assert daemon.stop() == 0
        assert answer.result(timeout=30).status_code == 503
        assert "retry-after" in answer.result().headers
    assert _all_gone(family[1:])


def test_a_second_signal_ends_it_at_once(launch: Callable[..., Daemon]) -> None:
    daemon = launch(drain_timeout_s=60.0).wait_ready()
    family = daemon.family()
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(daemon.total, -30)
        daemon.until_it_runs()
        daemon.process.send_signal(signal.SIGINT)
        _until(lambda: "finishing what is in flight" in daemon.log.read_text(), "the first signal was seen")
        begun = time.monotonic()
        daemon.process.send_signal(signal.SIGINT)

        assert daemon.process.wait(timeout=60) == 128 + signal.SIGINT
        assert time.monotonic() - begun < 15, "the drain would have taken longer"
        assert _all_gone(family[1:])
        assert isinstance(answer.exception(timeout=30), httpx.HTTPError)


def test_a_signal_during_the_start_ends_it_cleanly(launch: Callable[..., Daemon]) -> None:
    daemon = launch()
    _until(lambda: any("batchd-" in path.name for path in daemon.runtime.iterdir()), "the daemon has begun to start")
    assert daemon.stop() == 0
    assert list(daemon.runtime.iterdir()) == []


def test_a_killed_supervisor_leaves_nothing_running(launch: Callable[..., Daemon]) -> None:
    daemon = launch().wait_ready()
    others = daemon.family()[1:]
    assert len(others) == 3, "a front, the device process and its spare"

    daemon.process.kill()

    assert _all_gone(others)
    # the directory it could not remove goes with the next start
    assert len(list(daemon.runtime.iterdir())) == 1
    successor = launch().wait_ready()
    assert len(list(successor.runtime.iterdir())) == 1
    assert successor.stop() == 0


def test_requests_outlive_the_device_process(launch: Callable[..., Daemon]) -> None:
    daemon = launch().wait_ready()
    first = daemon.status()["device"]["pid"]
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(daemon.total, number, -3) for number in range(8)]
        daemon.until_it_runs()
        psutil.Process(first).kill()

        totals = [answer.result(timeout=60).json()["outputs"][0]["data"][0] for answer in answers]

    assert totals == [number - 3 for number in range(8)]
    assert daemon.status()["device"]["pid"] != first
    assert daemon.stop() == 0


def test_a_request_that_ends_the_device_process_is_told_so_and_others_are_served(
    launch: Callable[..., Daemon],
) -> None:
    daemon = launch().wait_ready()

    killer = daemon.total(666)

    assert killer.status_code == 500
    assert "ended the device process 2 times, last by exit code 9" in killer.json()["error"]
    assert daemon.total(1, 1).json()["outputs"][0]["data"] == [2.0]
    assert daemon.stop() == 0


def test_a_killed_front_process_is_replaced(launch: Callable[..., Daemon]) -> None:
    daemon = launch().wait_ready()
    front = daemon.status()["fronts"][0]["pid"]

    psutil.Process(front).kill()

    _until(daemon.is_ready, "ready again")
    _until(lambda: [f["pid"] for f in daemon.status()["fronts"]] != [front], "the new front is known")
    assert daemon.total(2, 3).json()["outputs"][0]["data"] == [5.0]
    assert daemon.stop() == 0


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finished = subprocess.run(
            [sys.executable, "-m", "batchd_server.cli.main", "serve", "--port", str(port)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert finished.returncode == 1
    assert finished.stderr == f"cannot listen on 127.0.0.1:{port}: address already in use\n"
