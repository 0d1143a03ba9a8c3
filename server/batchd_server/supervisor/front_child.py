"""A front process under supervision: it works for as long as the file stands by which it tells that it serves."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from batchd_server.supervisor.adopted import Process
from batchd_server.supervisor.children import Child, Command

log = logging.getLogger(__name__)


class FrontChild(Child):
    """A `Child` that knows since when its process serves, so that one that served for long is forgiven its death.

    `serves`: the file that the process makes once it serves. It is removed before each start.
    """

    MEANWHILE = "only other front processes answer"

    def __init__(self, name: str, command: Command, serves: Path, *, on_exit: Callable[[int], bool]) -> None:
        super().__init__(name, command, on_exit=on_exit)
        self._serves = serves

    @property
    def serves(self) -> bool:
        """Whether the present process has said that it serves."""
        return self._serving_s() is not None

    async def _spawn(self) -> Process:
        try:
            self._serves.unlink(missing_ok=True)
        except OSError as error:  # then it counts as serving too early, which delays no start
            log.warning("%s cannot be removed: %s", self._serves.name, error)
        return await super()._spawn()

    def _died(self, code: int) -> float:
        serving_s = self._serving_s()
        if serving_s is not None:
            self._restarts.ready(time.monotonic() - serving_s)
            self._restarts.answered()
        return super()._died(code)

    def _serving_s(self) -> float | None:
        """For how many seconds it has served; None where it does not."""
        try:
            return max(0.0, time.time() - self._serves.stat().st_mtime)
        except OSError:
            return None
