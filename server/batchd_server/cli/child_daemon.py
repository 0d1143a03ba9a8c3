"""A daemon of one's own: started as a real process, awaited until ready, and gone afterwards, whatever happens."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

READY = re.compile(r"\bready at (https?://\S+)")
TAIL_LINES = 25


class DaemonFailed(RuntimeError):
    """The daemon did not come up. The message ends with the last lines of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildDaemon:
    """A daemon that was ready when this was made."""

    url: str
    ready_line: str
    process: subprocess.Popen[bytes]
    log: Path

    def tail(self) -> str:
        """Return the last lines of the log."""
        return tail(self.log)


def tail(log: Path) -> str:
    """Return the last lines of a log file."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:])


@contextmanager
def child_daemon(
    log: Path,
    *,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    python: str = sys.executable,
    ready_timeout_s: float = 180.0,
    stop_timeout_s: float = 40.0,
) -> Iterator[ChildDaemon]:
    """Run `batchd serve` on a free port while the context is open; its output goes to the file `log`.

    The daemon gets a session of its own, so that a Ctrl-C reaches it only through us, after we have stopped asking. Its
    working directory is the log's, so that nothing is imported from where the caller stands.

    Raises:
        DaemonFailed: it ended, or was not ready within `ready_timeout_s`.
    """
    command = [python, "-m", "batchd_server.cli.main", "serve", "--port", "0", *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            cwd=log.parent,
            start_new_session=True,
        )
    try:
        yield _await_ready(process, log, ready_timeout_s)
    finally:
        _stop(process, stop_timeout_s)


def _await_ready(process: subprocess.Popen[bytes], log: Path, timeout_s: float) -> ChildDaemon:
    give_up = time.monotonic() + timeout_s
    while True:
        ended = process.poll()
        for line in log.read_text(errors="replace").splitlines(keepends=True):
            found = READY.search(line)
            if found and line.endswith("\n"):
                return ChildDaemon(url=found[1], ready_line=line.strip(), process=process, log=log)
        if ended is not None:
            raise DaemonFailed(f"the daemon ended with code {ended} before it was ready. Its log:\n{tail(log)}")
        if time.monotonic() > give_up:
            raise DaemonFailed(f"the daemon was not ready after {timeout_s:g} s. Its log:\n{tail(log)}")
        time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Ask it to drain; whatever of its session outlives that is killed."""
    try:
        if process.poll() is None:
            process.terminate()
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        pass  # it had its time: killed below
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
