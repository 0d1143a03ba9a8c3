"""The front processes: started together, replaced one by one, and stopped together.

All share one listening socket, so that no connection is refused while any of them accepts.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from batchd_server.supervisor.front_child import FrontChild
from batchd_server.supervisor.stopping import END_GRACE_S, LAST_ANSWERS_S, LEAVE, RETIRE, retire_limit_s

log = logging.getLogger(__name__)

SUCCESSOR_TIMEOUT_S = 120.0
"""For a new front process to serve; after that the one that it was to replace stays."""
POLL_S = 0.05

MakeFront = Callable[[int, Path], FrontChild]
"""Of the index of a front process, and the file by which it tells that it serves."""


class Fronts:
    """The front processes of one daemon, in one event loop. `on_done` hears of every task that is over."""

    def __init__(
        self,
        num_fronts: int,
        *,
        drain_timeout_s: float,
        directory: Path,
        make: MakeFront,
        on_done: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self._drain_timeout_s = drain_timeout_s
        self._directory = directory
        self._make = make
        self._on_done = on_done
        self._serials = itertools.count()
        self._running: dict[FrontChild, asyncio.Task[None]] = {}
        self._rolling: asyncio.Task[None] | None = None
        self._stopping = False
        self._serving = [self._launch(index) for index in range(num_fronts)]

    def __iter__(self) -> Iterator[FrontChild]:
        return iter(tuple(self._running))

    def roll(self) -> None:
        """Begin to replace each front process by a new one without losing a request."""
        if self._stopping:
            return
        if self._rolling is not None and not self._rolling.done():
            log.warning("the front processes are being replaced already")
            return
        self._rolling = asyncio.create_task(self._replace_all())
        self._rolling.add_done_callback(self._on_done)

    def leave(self) -> None:
        """Have all say that they are not ready, and serve on."""
        self._stopping = True
        if self._rolling is not None:
            self._rolling.cancel()
        for child in self:
            child.send(LEAVE)

    async def stop(self) -> None:
        """Have all finish what was admitted and end."""
        runs = tuple(self._running.values())
        grace_s = self._drain_timeout_s + LAST_ANSWERS_S + END_GRACE_S
        await asyncio.gather(*(child.stop(grace_s) for child in self))
        await asyncio.gather(*runs, return_exceptions=True)

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _launch(self, index: int) -> FrontChild:
        serves = self._directory / f"front-{index}-{next(self._serials)}.serves"
        child = self._make(index, serves)
        run = self._running[child] = asyncio.create_task(child.run())
        run.add_done_callback(lambda _: self._running.pop(child))
        run.add_done_callback(self._on_done)
        return child

    async def _replace_all(self) -> None:
        log.info("replacing the front processes, one after the other")
        for index, old in enumerate(self._serving):
            try:
                new = self._launch(index)
            except OSError as error:
                log.error("there is no new front process %d, the old one stays: %s", index, error)
                return
            if not await _serves(new, SUCCESSOR_TIMEOUT_S):
                log.error(
                    "the new front process %d does not serve after %g s: the old one stays", index, SUCCESSOR_TIMEOUT_S
                )
                new.kill()
                return
            self._serving[index] = new
            # one that has just been started again does not hear RETIRE yet, and has nothing to finish
            number = RETIRE if old.serves else signal.SIGTERM
            await old.stop(retire_limit_s(self._drain_timeout_s) + LAST_ANSWERS_S + END_GRACE_S, number)
        log.info("the front processes have been replaced")


async def _serves(front: FrontChild, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            while not front.serves:  # noqa: ASYNC110 - another process makes its file
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        return False
    return True
