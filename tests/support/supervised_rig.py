"""A daemon whose one model fails in every way there is, by its input or by a file that lies beside it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

from batchd_server.cli.child_daemon import ChildDaemon

SEGFAULT, HANG, REFUSE, TOO_LARGE, LOST = 666.0, 777.0, 888.0, 555.0, 444.0
BROKEN, DIES = "broken", "dies"
"""Names of files: while they exist, every run fails, and every process dies as it loads the model."""

MODEL = f'''
import os
import signal
import time
from pathlib import Path

import torch

from batchd_server.models.padded import PaddedModel
from batchd_server.models.spec import TensorSpec


class Frail(PaddedModel):
    """Adds up its numbers; -N takes N seconds."""

    inputs = (TensorSpec(name="x", datatype="FP32", shape=("n",)),)
    outputs = (TensorSpec(name="total", datatype="FP32", shape=(1,)),)

    def build(self):
        if Path("{DIES}").exists():
            os.kill(os.getpid(), signal.SIGSEGV)
        return torch.nn.Identity()

    def forward(self, batch):
        x = batch["x"]
        if Path("{BROKEN}").exists():
            raise RuntimeError("the weights have rotted")
        if (x == {REFUSE}).any():
            raise ValueError("not that number")
        if (x == {TOO_LARGE}).any():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        if (x == {LOST}).any():
            raise RuntimeError("CUDA error: device-side assert triggered")
        if (x == {SEGFAULT}).any():
            os.kill(os.getpid(), signal.SIGSEGV)
        if (x == {HANG}).any():
            time.sleep(3600)
        time.sleep(float((-x).clamp(min=0).max()))
        return {{"total": x.sum(1, keepdim=True)}}
'''

CONFIG = """
[server]
fronts = {fronts}

[device]
name = "cpu"
hang_timeout_s = {hang_timeout_s}

[models.frail]
entrypoint = "frail_model:Frail"

[models.frail.batching]
slo_ms = 60000
"""


def frail_config(folder: Path, *, fronts: int = 1, hang_timeout_s: float = 60.0) -> str:
    """Write the model into `folder` and return a configuration that serves it."""
    (folder / "frail_model.py").write_text(MODEL)
    return CONFIG.format(fronts=fronts, hang_timeout_s=hang_timeout_s)


class Client:
    """One connection to the daemon."""

    def __init__(self, daemon: ChildDaemon) -> None:
        self._http = httpx.Client(base_url=daemon.url, timeout=180.0)

    def total(self, *numbers: float, timeout_ms: int = 60_000) -> httpx.Response:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, len(numbers)], "data": list(numbers)}
        headers = {"X-Request-Timeout-Ms": str(timeout_ms)}
        return self._http.post("/v2/models/frail/infer", json={"inputs": [tensor]}, headers=headers)

    def ready(self) -> httpx.Response:
        return self._http.get("/v2/health/ready")

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = self._http.get("/v1/status").raise_for_status().json()
        return document

    def device(self) -> psutil.Process:
        """Return the device process, once there is one."""
        found: list[int] = []

        def there() -> bool:
            pid = self.status()["device"]["pid"]
            found.append(pid or 0)
            return pid is not None

        until(there, "there is a device process")
        return psutil.Process(found[-1])

    def is_ready(self) -> bool:
        return self.ready().status_code == 200

    def close(self) -> None:
        self._http.close()


def answer(response: httpx.Response) -> float:
    assert response.status_code == 200, response.text
    total: float = response.json()["outputs"][0]["data"][0]
    return total


def stop(process: psutil.Process) -> None:
    """Have it do nothing any more, as a driver that spins in the kernel would."""
    os.kill(process.pid, signal.SIGSTOP)


def until(condition: Callable[[], bool], what: str, within_s: float = 90.0) -> None:
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up, f"not within {within_s} s: {what}"
        time.sleep(0.05)
