"""Where the work on a request runs, from body to items and from outputs to answer.

At once when it is short, in a thread when it would hold others up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TypeVar

T = TypeVar("T")

LONGEST_INLINE_S = 2e-3
"""What a thread costs a request (about 0.1 ms, and the order of arrival) is worth it above this."""
_INITIAL_S_PER_BYTE = 50e-9
_SMALL_BYTES = 1024  # below this the fixed cost of a request would be taken for a price per byte
_WEIGHT = 0.1


class Preparation:
    """Runs decoding and preprocessing, and learns per model what a byte of body costs."""

    def __init__(self, threads: int = 2) -> None:
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="prepare")
        self._s_per_byte: dict[str, float] = {}

    async def run(self, model: str, body_bytes: int, work: Callable[[], T]) -> T:
        """Return `work()`, run inline or in the pool by what bodies of this model have cost so far."""
        expected_s = body_bytes * self._s_per_byte.get(model, _INITIAL_S_PER_BYTE)
        return await self.placed(expected_s, partial(self._timed, model, body_bytes, work))

    async def placed(self, expected_s: float, work: Callable[[], T]) -> T:
        """Return `work()`, run inline or in the pool by how long it is expected to take."""
        if expected_s <= LONGEST_INLINE_S:
            return work()
        # in this request's context, so that what is logged there carries its id
        return await asyncio.get_running_loop().run_in_executor(self._pool, copy_context().run, work)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Return `work()`, run in the pool whatever it costs."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        """End the threads; what they are doing is finished first."""
        self._pool.shutdown(wait=True)

    def _timed(self, model: str, body_bytes: int, work: Callable[[], T]) -> T:
        begun = time.thread_time()  # not the wall clock: while others hold the interpreter nothing is learned
        result = work()
        observed = (time.thread_time() - begun) / max(body_bytes, _SMALL_BYTES)
        known = self._s_per_byte.get(model, _INITIAL_S_PER_BYTE)
        self._s_per_byte[model] = known + _WEIGHT * (observed - known)
        return result
