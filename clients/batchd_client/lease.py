"""The device for a training loop of one's own: leases as context managers, and as a wrapper around a data loader.

```python
for batch in leased(loader, client, "finetune"):
    train_on(batch)
```
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Generator, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from batchd_client.borrowing import Borrowing, LeaseRecord, Steps
from batchd_client.errors import BatchdError
from batchd_client.exchange import Call, Pause
from batchd_client.lease_calls import LeaseTerms

if TYPE_CHECKING:
    from batchd_client.client import Client

T = TypeVar("T")

QUICK_S = 0.001
"""A batch that is there so soon is drawn while the device is held."""

_END: Any = object()


class Lease:
    """The device, from the beginning of a `with` block to its end; may be entered again and again.

    `record` tells what the leases came to.
    """

    def __init__(
        self,
        run: Callable[[Call[Any]], Any],
        sleep: Callable[[float], object],
        terms: LeaseTerms,
        finish: Callable[[], object] | None = None,
    ) -> None:
        self._run = run
        self._sleep = sleep
        self._finish = finish
        self._borrowing = Borrowing(terms)

    @property
    def record(self) -> LeaseRecord:
        """What the leases came to so far."""
        return self._borrowing.record

    @property
    def limit_s(self) -> float | None:
        """How long the present lease may be held; None while none is."""
        grant = self._borrowing.grant
        return None if grant is None else grant.limit_s

    def __enter__(self) -> Self:
        self._drive(self._borrowing.borrow())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._borrowing.grant is None:
            return  # it was lost in a renewal that was interrupted
        try:
            self._finished()
        finally:
            self._drive(self._borrowing.give_back())

    def renew(self) -> None:
        """Give the device back and wait for it again, in one call: requests are served in between."""
        self._finished()
        self._drive(self._borrowing.renew())

    def _finished(self) -> None:
        if self._finish is not None:
            self._finish()

    def _drive(self, steps: Steps[None]) -> None:
        step = next(steps, None)
        while step is not None:
            step = self._perform(steps, step)

    def _perform(self, steps: Steps[None], step: Call[Any] | Pause) -> Call[Any] | Pause | None:
        try:
            if isinstance(step, Pause):
                self._sleep(step.seconds)
                return steps.send(None)
            try:
                answer = self._run(step)
            except BatchdError as error:
                return steps.throw(error)
            return steps.send(answer)
        except StopIteration:
            return None


class AsyncLease:
    """The device, from the beginning of an `async with` block to its end; may be entered again and again.

    `record` tells what the leases came to.
    """

    def __init__(
        self,
        run: Callable[[Call[Any]], Awaitable[Any]],
        sleep: Callable[[float], Awaitable[object]],
        terms: LeaseTerms,
        finish: Callable[[], object] | None = None,
    ) -> None:
        self._run = run
        self._sleep = sleep
        self._finish = finish
        self._borrowing = Borrowing(terms)

    @property
    def record(self) -> LeaseRecord:
        """What the leases came to so far."""
        return self._borrowing.record

    @property
    def limit_s(self) -> float | None:
        """How long the present lease may be held; None while none is."""
        grant = self._borrowing.grant
        return None if grant is None else grant.limit_s

    async def __aenter__(self) -> Self:
        await self._drive(self._borrowing.borrow())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._borrowing.grant is None:
            return  # it was lost in a renewal that was interrupted
        try:
            self._finished()
        finally:
            await self._drive(self._borrowing.give_back())

    async def renew(self) -> None:
        """Give the device back and wait for it again, in one call: requests are served in between."""
        self._finished()
        await self._drive(self._borrowing.renew())

    def _finished(self) -> None:
        if self._finish is not None:
            self._finish()

    async def _drive(self, steps: Steps[None]) -> None:
        step = next(steps, None)
        while step is not None:
            step = await self._perform(steps, step)

    async def _perform(self, steps: Steps[None], step: Call[Any] | Pause) -> Call[Any] | Pause | None:
        try:
            if isinstance(step, Pause):
                await self._sleep(step.seconds)
                return steps.send(None)
            try:
                answer = await self._run(step)
            except BatchdError as error:
                return steps.throw(error)
            return steps.send(answer)
        except StopIteration:
            return None


def leased(
    batches: Iterable[T],
    client: Client,
    name: str,
    *,
    weight: float = 1.0,
    expected_s: float | None = None,
    poll_s: float = 30.0,
    finish: Callable[[], object] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Generator[T]:
    """Yield the batches, each with the device lent for as long as the loop's body takes; see `Client.lease`.

    The device is not held while the next batch is made ready, unless the last one was there at once: then it is drawn
    under the lease, and returning that and asking for the next is a single call.

    Raises:
        BatchdError: the daemon refuses to lend the device. One that is not there is waited for.
    """
    lease = client.lease(name, weight=weight, expected_s=expected_s, poll_s=poll_s, finish=finish)
    source = iter(batches)
    at_hand = False

    def draw() -> T:
        nonlocal at_hand
        begun = clock()
        batch: T = next(source, _END)
        at_hand = clock() - begun < QUICK_S
        return batch

    batch = draw()
    while batch is not _END:
        with lease:
            yield batch
            while at_hand and (batch := draw()) is not _END:
                lease.renew()
                yield batch
        if batch is not _END:
            batch = draw()
