"""What the supervisor does when the machine gives it no process, descriptor or disk; and how fronts are forgiven."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from batchd_server.bootstrap import Bootstrap
from batchd_server.config.settings import Settings
from batchd_server.supervisor import children, spare
from batchd_server.supervisor.children import Child, Command
from batchd_server.supervisor.device_child import DeviceChild
from batchd_server.supervisor.front_child import FrontChild
from batchd_server.supervisor.fronts import Fronts
from batchd_server.supervisor.restarts import CRASH_LOOP
from batchd_server.supervisor.standing import DeviceStanding
from batchd_server.supervisor.stopping import note_stop, stop_noted

pytestmark = pytest.mark.asyncio
PATIENCE_S = 60.0

LIVES = """
import os
import signal
import time
from pathlib import Path

with Path("{lives}").open("a") as lives:
    lives.write("x")
if {serves_s} is not None:
    Path("{serves}").touch()
    began = time.time() - {serves_s}
    os.utime("{serves}", (began, began))
os.kill(os.getpid(), signal.SIGSEGV)
"""


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.02)


async def lives_of(folder: Path, serves_s: float | None) -> tuple[int, int]:
    """Let a front process crash `serves_s` after it has begun to serve, again and again; return (lives, in a row)."""
    serves, lives = folder / "front.serves", folder / "lives"
    lives.touch()
    (folder / "doomed.py").write_text(LIVES.format(lives=lives, serves=serves, serves_s=serves_s))
    command = Command(module="doomed", arguments=(), environment={"PYTHONPATH": str(folder)})
    child = FrontChild("the front process", command, serves, on_exit=lambda code: True)
    run = asyncio.create_task(child.run())
    try:
        await until(lambda: child._restarts.is_crash_loop or lives.stat().st_size > CRASH_LOOP + 1)
        return lives.stat().st_size, child._restarts.deaths_in_a_row
    finally:
        child.kill()
        await run


async def test_a_front_that_has_served_for_a_while_is_forgiven_its_death_every_time(tmp_path: Path) -> None:
    lives, in_a_row = await lives_of(tmp_path, serves_s=60.0)
    assert lives > CRASH_LOOP
    assert in_a_row <= 1


@pytest.mark.parametrize("serves_s", [None, 0.0])
async def test_one_that_crashes_as_soon_as_it_serves_or_before_is_in_a_crash_loop(
    tmp_path: Path, serves_s: float | None
) -> None:
    assert await lives_of(tmp_path, serves_s) == (CRASH_LOOP, CRASH_LOOP)


async def test_a_front_that_starts_again_does_not_serve_because_the_last_one_did(tmp_path: Path) -> None:
    serves = tmp_path / "front.serves"
    serves.touch()
    command = Command(module="timeit", arguments=("-n", "1", "-r", "1", "import time; time.sleep(600)"))
    child = FrontChild("the front process", command, serves, on_exit=lambda code: True)
    assert child.serves
    run = asyncio.create_task(child.run())
    await until(lambda: child._process is not None)
    assert not child.serves
    child.kill()
    await run


def refuse_once(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have the first start of a process fail, as where the number of processes is limited."""
    started: list[str] = []
    begin = children.start

    async def start(command: Command) -> asyncio.subprocess.Process:
        started.append(command.module)
        if len(started) == 1:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return await begin(command)

    monkeypatch.setattr(children, "start", start)
    monkeypatch.setattr("batchd_server.supervisor.device_child.start", start)
    return started


IDLE = ("-n", "1", "-r", "1", "import time; time.sleep(600)")


async def test_a_process_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    started = refuse_once(monkeypatch)
    child = Child("the process", Command(module="timeit", arguments=IDLE), on_exit=lambda code: True)
    run = asyncio.create_task(child.run())
    await until(lambda: child._process is not None)
    assert started == ["timeit", "timeit"]
    assert child._restarts.deaths_in_a_row == 1
    assert not run.done()
    child.kill()
    await run


async def test_a_device_process_that_cannot_be_started_is_told_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refuse_once(monkeypatch)
    child = DeviceChild(
        Command(module="timeit", arguments=IDLE),
        directory=tmp_path,
        hang_timeout_s=60.0,
        spare=None,
        on_exit=lambda code: True,
    )
    run = asyncio.create_task(child.run())
    await until(lambda: child._process is not None)
    standing = DeviceStanding.read(tmp_path)
    assert standing is not None
    assert (standing.deaths, standing.state) == (1, "restarting")
    assert standing.last_death == "could not be started (Resource temporarily unavailable)"
    child.kill()
    await run


async def test_a_fork_that_cannot_be_watched_does_not_live(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_descriptor(pid: int, flags: int = 0) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    process = await asyncio.create_subprocess_exec("sleep", "600")
    monkeypatch.setattr(os, "pidfd_open", no_descriptor)
    monkeypatch.setattr(os, "waitpid", lambda pid, options: (pid, 0))  # asyncio's to wait for
    with pytest.raises(OSError, match="Too many open files"):
        spare._adopted(process.pid)
    monkeypatch.undo()
    assert await process.wait() == -signal.SIGKILL


async def test_a_disk_that_takes_nothing_ends_neither_a_stop_nor_the_fronts(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    note_stop(gone)
    assert not stop_noted(gone)

    launched: list[Path] = []
    ended: list[asyncio.Task[None]] = []

    def make(index: int, serves: Path) -> FrontChild:
        launched.append(serves)
        if len(launched) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return FrontChild("front 0", Command(module="timeit", arguments=IDLE), serves, on_exit=lambda code: True)

    fronts = Fronts(1, drain_timeout_s=0.1, directory=tmp_path, make=make, on_done=ended.append)
    (old,) = fronts
    await until(lambda: old._process is not None)
    fronts.roll()
    await until(lambda: len(ended) == 1)
    assert ended[0].exception() is None, "the daemon would end with it"
    assert list(fronts) == [old]
    assert len(set(launched)) == 2
    old.kill()
    await until(lambda: len(ended) == 2)


async def test_what_is_handed_over_stays_whole_where_it_cannot_be_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "front-0.json"
    first = Bootstrap(settings=Settings(), link_address="ipc:///tmp/first")
    first.write(path)
    assert path.stat().st_mode & 0o777 == 0o600

    def full(self: Bootstrap) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Bootstrap, "model_dump_json", full)
    with pytest.raises(OSError, match="No space left"):
        Bootstrap(settings=Settings(), link_address="ipc:///tmp/second").write(path)
    assert Bootstrap.read(path) == first


async def test_a_front_that_does_not_serve_yet_is_ended_at_once_when_it_is_replaced(tmp_path: Path) -> None:
    """It would not hear that it is to retire, and come up when its successor has taken over."""
    ended: list[asyncio.Task[None]] = []

    def make(index: int, serves: Path) -> FrontChild:
        command = Command(module="timeit", arguments=IDLE)
        return FrontChild("front 0", command, serves, on_exit=lambda code: True)

    fronts = Fronts(1, drain_timeout_s=30.0, directory=tmp_path, make=make, on_done=ended.append)
    (old,) = fronts
    await until(lambda: old._process is not None)
    process = psutil.Process(old._process.pid if old._process is not None else 0)
    began = time.monotonic()
    fronts.roll()
    await until(lambda: len(list(fronts)) == 2)
    (new,) = set(fronts) - {old}
    await until(lambda: new._process is not None)
    new._serves.touch()
    await until(lambda: list(fronts) == [new])
    assert not process.is_running()
    assert time.monotonic() - began < 30.0
    new.kill()
    await until(lambda: len(ended) == 3)
