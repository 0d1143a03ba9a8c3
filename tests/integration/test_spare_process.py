"""The spare process is forked while that is safe, and used up where it is not; forks are the supervisor's children."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from batchd_server.supervisor.adopted import Process
from batchd_server.supervisor.spare import Spare

pytestmark = pytest.mark.anyio

TARGET = """
import os, signal
from pathlib import Path

def main(arguments):
    word, descriptor = arguments
    os.write(int(descriptor), f"{word} {os.getpid()}".encode())
    if word == "wait":
        signal.pause()
    return 7
"""
THREADED = "import threading, time\nthreading.Thread(target=time.sleep, args=(3600,), daemon=True).start()\n"


@asynccontextmanager
async def spare_of(folder: Path, monkeypatch: pytest.MonkeyPatch, *modules: str) -> AsyncIterator[Spare]:
    (folder / "target_module.py").write_text(TARGET)
    (folder / "threaded_module.py").write_text(THREADED)
    monkeypatch.chdir(folder)
    spare = Spare(("target_module", *modules))
    spare.keep()
    try:
        yield spare
    finally:
        spare.close()
        await spare.ended()


async def take(spare: Spare, word: str) -> tuple[Process, str]:
    """Return the process and what it wrote into the descriptor that it was given."""
    reading, writing = os.pipe()
    process = await spare.take([word], writing)
    assert process is not None
    os.close(writing)
    said = await asyncio.to_thread(os.read, reading, 100)
    os.close(reading)
    return process, said.decode()


async def test_every_order_gets_a_fork_that_the_supervisor_is_the_parent_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with spare_of(tmp_path, monkeypatch) as spare:
        seen = set()
        for _ in range(3):
            process, said = await take(spare, "end")
            assert said == f"end {process.pid}"
            assert await process.wait() == 7
            seen.add(process.pid)
        assert len(seen) == 3
        assert spare.pid not in seen
        process, _ = await take(spare, "wait")
        assert psutil.Process(process.pid).ppid() == os.getpid()
        assert os.getpgid(process.pid) != os.getpgid(spare.pid or 0), "a group of its own"
        process.send_signal(signal.SIGKILL)
        assert await process.wait() == -signal.SIGKILL
        process.send_signal(signal.SIGKILL)  # too late, and no error


async def test_what_cannot_be_forked_is_used_up_and_can_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with spare_of(tmp_path, monkeypatch, "threaded_module") as spare:
        for _ in range(2):
            spare.keep()
            process, said = await take(spare, "end")
            assert said == f"end {process.pid}"
            assert await process.wait() == 7
            assert spare.pid is None
            assert await spare.take(["end"], 0) is None, "there is none until one is made"


async def test_a_module_that_cannot_be_imported_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module.py").write_text("raise SystemExit(3)")
    async with spare_of(tmp_path, monkeypatch, "broken_module", "no_such_module") as spare:
        process, _ = await take(spare, "end")
        assert await process.wait() == 7


async def test_a_spare_process_that_died_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with spare_of(tmp_path, monkeypatch) as spare:
        process, _ = await take(spare, "end")
        await process.wait()
        assert spare.pid is not None
        os.kill(spare.pid, signal.SIGKILL)
        async with asyncio.timeout(30):
            assert await spare.take(["end"], 0) is None
