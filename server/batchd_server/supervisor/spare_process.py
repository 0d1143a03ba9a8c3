"""A process that has imported what the device process needs, and waits: `spare_process CHANNEL MODULE MODULE ...`.

CHANNEL is the descriptor of a socket to the supervisor. An order on it is a line of JSON, the arguments of the first
MODULE's `main`, with one descriptor beside it. The answer is the number of the process that carries it out: one
forked from this one, so that the next order finds the modules imported too; or this one, where what was imported is not
fit to be forked. It must import nothing that is not named to it.
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from batchd_server.supervisor.child import end_with

log = logging.getLogger(__name__)

MAX_ORDER_BYTES = 4096
ADOPTION_S = 10.0
DRIVERS = ("/dev/nvidia", "/dev/kfd", "/dev/dri")
"""What a process has open that has spoken to a GPU; its forks cannot."""


def main(arguments: Sequence[str]) -> int:
    """Import, then carry out orders until the supervisor closes the channel."""
    descriptor, target, *others = arguments
    supervisor = os.getppid()
    with socket.socket(fileno=int(descriptor)) as channel:
        run = importlib.import_module(target).main
        threads = num_threads()  # those of the numerical libraries, which survive a fork
        for module in others:
            _import(module)
        gc.collect()
        gc.freeze()  # or the first collection would copy every page that is shared with a fork
        while True:
            order, descriptors, _, _ = socket.recv_fds(channel, MAX_ORDER_BYTES, 1)
            if not order:
                return 0
            if is_forkable(threads):
                process = _fork(supervisor)
                if process:
                    channel.sendall(b"%d\n" % process)
                    for inherited in descriptors:
                        os.close(inherited)
                    continue
            else:
                channel.sendall(b"%d\n" % os.getpid())
            break
    sys.argv[1:] = []
    status = run([*json.loads(order), *(str(inherited) for inherited in descriptors)])
    return int(status or 0)


def num_threads() -> int:
    """Return how many threads this process has, Python's and others."""
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208 - names only, and pathlib builds objects


def is_forkable(threads: int) -> bool:
    """Return whether a fork of this process would work: no more than `threads` of them, and no GPU touched."""
    return num_threads() <= threads and not any(_target(entry).startswith(DRIVERS) for entry in _descriptors())


def _descriptors() -> list[Path]:
    return list(Path("/proc/self/fd").iterdir())


def _target(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except OSError:  # the descriptor by which the folder was read
        return ""


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except BaseException as error:  # noqa: BLE001 - user code: who needs it imports it again and says what is wrong
        log.debug("the spare process could not import %s: %s", module, error)


def _fork(supervisor: int) -> int:
    """Return the number of the new process; 0 in that process, once it is the supervisor's child.

    It is forked twice: the supervisor adopts it when the one in between ends, as it has asked the kernel to.
    """
    reading, writing = os.pipe()
    between = os.fork()
    if between == 0:
        process = os.fork()
        if process:
            os.write(writing, b"%d" % process)
            os._exit(0)
        os.close(reading)
        os.close(writing)
        os.setpgid(0, 0)  # a group of its own, as whatever the supervisor starts
        give_up = time.monotonic() + ADOPTION_S
        while os.getppid() != supervisor and time.monotonic() < give_up:
            time.sleep(0.001)
        end_with(supervisor)
        return 0
    os.close(writing)
    os.waitpid(between, 0)
    with os.fdopen(reading, "rb") as pipe:
        return int(pipe.read())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
