"""Requests that end the device process, among others that do not: a real daemon, and a model that really crashes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from daemon_rig import daemon

from batchd_server.cli.child_daemon import ChildDaemon

MODEL = '''
import ctypes
import time

import torch

from batchd_server.models.padded import PaddedModel
from batchd_server.models.spec import TensorSpec


class Total(PaddedModel):
    """Adds up its numbers. 666 and 667 are null pointers; -N takes N seconds."""

    inputs = (TensorSpec(name="x", datatype="FP32", shape=("n",)),)
    outputs = (TensorSpec(name="total", datatype="FP32", shape=(1,)),)

    def build(self) -> torch.nn.Module:
        return torch.nn.Identity()

    def forward(self, batch):
        if ((batch["x"] == 666) | (batch["x"] == 667)).any():
            ctypes.string_at(0)
        time.sleep(float((-batch["x"]).clamp(min=0).max()))
        return {"total": batch["x"].sum(1, keepdim=True)}
'''
CONFIG = """
[server]
drain_timeout_s = 5

[device]
name = "cpu"

[models.total]
entrypoint = "total_model:Total"
options = {}

[models.total.batching]
slo_ms = 120000
"""
WITHIN_S = 200.0
BUSY_S = 5.0

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChildDaemon]:
    folder = tmp_path_factory.mktemp("daemon")
    (folder / "total_model.py").write_text(MODEL)
    with daemon(folder, CONFIG) as running:
        yield running


def ask(url: str, *items: tuple[float, float]) -> httpx.Response:
    data = [number for item in items for number in item]
    tensor = {"name": "x", "datatype": "FP32", "shape": [len(items), 2], "data": data}
    return httpx.post(f"{url}/v2/models/total/infer", json={"inputs": [tensor]}, timeout=WITHIN_S)


def status(http: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = http.get("/v1/status").raise_for_status().json()
    return found


def totals(answer: httpx.Response) -> list[float]:
    assert answer.status_code == 200, answer.text
    found: list[float] = answer.json()["outputs"][0]["data"]
    return found


def occupy(url: str, http: httpx.Client, pool: ThreadPoolExecutor) -> Future[httpx.Response]:
    """Have the device busy for seconds, so that what comes meanwhile shares a batch."""
    busy = pool.submit(ask, url, (-BUSY_S, 0.0))
    give_up = time.monotonic() + 60
    while status(http)["queue"]["running_batch"] is None:
        assert time.monotonic() < give_up
        if busy.done():  # it was over before anybody looked
            busy = pool.submit(ask, url, (-BUSY_S, 0.0))
    return busy


def test_two_deadly_requests_in_one_batch_are_found_and_all_others_are_answered(served: ChildDaemon) -> None:
    url = served.url
    with httpx.Client(base_url=url, timeout=30) as http, ThreadPoolExecutor(16) as pool:
        busy = occupy(url, http, pool)
        deadly = [pool.submit(ask, url, (666.0, 1.0)), pool.submit(ask, url, (1.0, 1.0), (2.0, 667.0), (3.0, 3.0))]
        single = [pool.submit(ask, url, (float(number), 0.5)) for number in range(4)]
        several = pool.submit(ask, url, (1.0, 2.0), (3.0, 4.0), (5.0, 6.0))
        assert totals(busy.result()) == [-BUSY_S]
        assert [totals(answer.result()) for answer in single] == [[number + 0.5] for number in range(4)]
        assert totals(several.result()) == [3.0, 7.0, 11.0]
        one, other = (answer.result() for answer in deadly)
        assert (one.status_code, one.json()["code"]) == (500, "poison")
        assert "this item ended the device process 2 times, last by SIGSEGV: it is not run again" in one.json()["error"]
        assert (other.status_code, other.json()["code"]) == (500, "poison")
        assert "item 1 ended the device process 2 times" in other.json()["error"]

        # whoever comes again with the same is not tried again, and nobody else is kept from company for it
        pid = status(http)["device"]["pid"]
        assert ask(url, (666.0, 1.0)).json()["code"] == "poison"
        assert totals(ask(url, (667.5, 1.0))) == [668.5]
        assert status(http)["device"]["pid"] == pid
