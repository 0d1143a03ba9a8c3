"""Datasets by path and by upload as a client meets them: what it is told, and that a long check holds nobody up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from training_front_rig import DATASET, TrainingRig, training_rig

from batchd_server.front.training.store_access import THREADS
from batchd_server.training.datasets import intake
from batchd_server.training.datasets.inspection import Found

pytestmark = pytest.mark.asyncio

ROWS = b'{"x": [1, 2], "y": 0}\n{"x": [3], "y": 1}\n'
PATIENCE_S = 60.0


class LongChecks:
    """Stand in for the process that opens a dataset: they are not done before `go` is set."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._running = 0
        self.most = 0

    def __call__(self, path: Path, said: str | None, limits: Any) -> Found:
        with self._lock:
            self._running += 1
            self.most = max(self.most, self._running)
        self.begun.release()
        assert self.go.wait(PATIENCE_S)
        with self._lock:
            self._running -= 1
        return Found("jsonl", 2)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Iterator[LongChecks]:
    long = LongChecks()
    monkeypatch.setattr(intake, "inspect_in_child", long)
    yield long
    long.go.set()


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    root.mkdir()
    (root / "rows.jsonl").write_bytes(ROWS)
    (root / "broken.jsonl").write_bytes(b"{")
    return root


async def adopt(front: TrainingRig, name: str) -> int:
    answer = await front.client.post("/v1/datasets", json={"path": "rows.jsonl", "name": name})
    return answer.status_code


async def test_checks_of_paths_hold_up_neither_the_store_nor_each_other(
    tmp_path: Path, data_root: Path, checks: LongChecks
) -> None:
    count = THREADS + 2
    async with training_rig(tmp_path, data_root=data_root) as front:
        adopting = [asyncio.create_task(adopt(front, f"rows-{number}")) for number in range(count)]
        try:
            for _ in range(2):
                assert await asyncio.to_thread(checks.begun.acquire, timeout=PATIENCE_S)
            async with asyncio.timeout(PATIENCE_S / 4):
                for path in ("/v1/datasets", "/v1/training/jobs", f"/v1/datasets/{DATASET.id}"):
                    assert (await front.client.get(path)).status_code == 200
        finally:
            checks.go.set()
        assert await asyncio.gather(*adopting) == [201] * count
        assert checks.most == 2
        assert len(front.store.datasets()) == 1 + count


async def test_of_two_that_come_at_once_one_gets_the_name(tmp_path: Path, data_root: Path, checks: LongChecks) -> None:
    async with training_rig(tmp_path, data_root=data_root) as front:
        adopting = [asyncio.create_task(adopt(front, "rows")) for _ in range(2)]
        for _ in range(2):
            assert await asyncio.to_thread(checks.begun.acquire, timeout=PATIENCE_S)
        checks.go.set()
        assert sorted(await asyncio.gather(*adopting)) == [201, 409]


@pytest.mark.parametrize(
    ("document", "status", "field"),
    [
        ({"path": "rows.jsonl", "name": "no name"}, 422, "name"),
        ({"path": "rows.jsonl", "name": "lines"}, 409, "name"),
        ({"path": "rows.jsonl", "format": "pickle"}, 422, "format"),
        ({"path": "../rows.jsonl"}, 422, "path"),
        ({"path": "/etc/passwd"}, 422, "path"),
        ({"path": "/etc/nowhere", "name": "passwd"}, 422, "path"),
        ({"path": "nowhere"}, 404, "path"),
        ({"path": "broken.jsonl"}, 422, "path"),
        ({"name": "rows"}, 400, "path"),
    ],
)
async def test_what_is_wrong_with_a_path_names_the_field(
    tmp_path: Path, data_root: Path, document: dict[str, str], status: int, field: str
) -> None:
    async with training_rig(tmp_path, data_root=data_root) as front:
        answer = await front.client.post("/v1/datasets", json=document)
    assert (answer.status_code, answer.json()["field"]) == (status, field), answer.text


@pytest.mark.parametrize(
    ("query", "content", "status", "field"),
    [
        ({"name": "no name"}, ROWS, 422, "name"),
        ({"name": "lines"}, ROWS, 409, "name"),
        ({"name": "rows", "format": "pickle"}, ROWS, 422, "format"),
        ({"name": "rows"}, b"{", 422, "body"),
        ({"name": "rows"}, ROWS * 100, 413, "body"),
        ({}, ROWS, 400, "name"),
    ],
)
async def test_what_is_wrong_with_an_upload_names_the_field(
    tmp_path: Path, query: dict[str, str], content: bytes, status: int, field: str
) -> None:
    async with training_rig(tmp_path, uploads_max_bytes=2000) as front:
        answer = await front.client.post("/v1/datasets", params=query, content=content)
    assert (answer.status_code, answer.json()["field"]) == (status, field), answer.text
