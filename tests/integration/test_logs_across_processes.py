"""A request is followed through a real daemon's log by its id; what a process says at its end is there too."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
from daemon_rig import daemon

MODEL = '''
from batchd_server.models.spec import TensorSpec


class Fragile:
    """y = x, unless x begins with 13."""

    inputs = (TensorSpec(name="x", datatype="FP32", shape=("n",)),)
    outputs = (TensorSpec(name="y", datatype="FP32", shape=("n",)),)

    def preprocess(self, item):
        return item

    def shape(self, item):
        return item["x"].shape

    def load(self, device):
        pass

    def collate(self, items, padded_shape):
        return items

    def run(self, batch):
        if any(item["x"][0] == 13 for item in batch):
            raise KeyError("unlucky")
        return batch

    def split(self, outputs, items):
        return [{"y": item["x"]} for item in items]
'''
CONFIG = """
[server]
log_level = "debug"
[models.fragile]
entrypoint = "fragile_model:Fragile"
batching.slo_ms = 60000
"""
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
DEADLINE_S = 60.0


def ask(url: str, first: int, request_id: str) -> httpx.Response:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [first]}
    headers = {"X-Request-Id": request_id, "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    return httpx.post(f"{url}/v2/models/fragile/infer", json={"inputs": [tensor]}, headers=headers, timeout=60)


def lines_of(log: Path, request_id: str, role: str, text: str) -> list[str]:
    """Wait for a line of a process about a request: pipes of several processes end in one file."""
    give_up = time.monotonic() + DEADLINE_S
    while True:
        found = [
            line
            for line in log.read_text().splitlines()
            if re.search(rf"request_ids?={request_id}\b", line) and f" {role}[" in line and text in line
        ]
        if found or time.monotonic() > give_up:
            return found
        time.sleep(0.05)


def test_a_failed_request_is_found_in_both_processes_by_its_id(tmp_path: Path) -> None:
    (tmp_path / "fragile_model.py").write_text(MODEL)
    with daemon(tmp_path, CONFIG) as running:
        assert ask(running.url, 1, "good-one").status_code == 200
        failed = ask(running.url, 13, "bad-one")
        assert (failed.status_code, failed.headers["x-request-id"]) == (500, "bad-one")
        assert "unlucky" in failed.json()["error"]
        [batch] = lines_of(running.log, "bad-one", "device", "batch of 1")
        [told] = lines_of(running.log, "bad-one", "front", "answered 500")
        [served] = lines_of(running.log, "good-one", "front", "answered 200")
        log = running.log.read_text()
    assert " INFO " in batch
    assert re.search(r"KeyError: 'unlucky' \(\S+fragile_model\.py:\d+ in run\)", batch)
    assert "model=fragile" in batch
    assert f"trace_ids={TRACE}" in batch
    assert " WARNING " in told
    assert f"trace_id={TRACE} parent_id=00f067aa0ba902b7" in told
    assert " DEBUG " in served
    problems = [line for line in log.splitlines() if re.search(r" (WARNING|ERROR|CRITICAL) ", line)]
    assert problems == [told]


def test_a_process_that_the_kernel_ends_shows_where_it_was() -> None:
    source = """
import ctypes
from batchd_server.observe.logs import configure_logging
configure_logging("device", level="info", form="json")
ctypes.string_at(0)
"""
    ended = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == -11
    assert "Segmentation fault" in ended.stderr
    assert "string_at" in ended.stderr
