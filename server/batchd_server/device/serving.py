"""The life of items in the device process: offered to the controller, run in batches, answered, refused or forgotten.

It must not know of sockets, model loading or the clock: messages and times come in as arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import assert_never

from batchd.decision import Admitted, Expire, Refused, RunBatch, RunMicrobatch, Wait
from batchd.device_scheduler import DeviceScheduler
from batchd.item import Item, ItemId
from batchd.outcome import OutOfMemory
from batchd_server.device.answering import Answering
from batchd_server.device.black_box import BlackBox
from batchd_server.device.failures import Failure
from batchd_server.device.item_table import ItemTable, PendingItem
from batchd_server.device.refusals import refusal_error
from batchd_server.device.work import BatchDone, BatchWork
from batchd_server.errors import BadRequest, DeadlineExceeded, InsufficientMemory, ServingError, TooLarge, Unavailable
from batchd_server.link.codec import Frame, LinkError, unpack_tensors
from batchd_server.link.messages import Offer, RunningItem
from batchd_server.models.protocol import Model
from batchd_server.models.spec import Tensors
from batchd_server.observe.arrival_trace import ArrivalTrace
from batchd_server.observe.instruments import Instruments

UNLOADED_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class _Launched:
    decision: RunBatch
    now: float
    oldest_wait_s: float


class Serving:
    """Joins the controller's decisions to the items' tensors, and their outcomes to answers."""

    def __init__(
        self,
        controller: DeviceScheduler,
        answering: Answering,
        instruments: Instruments,
        submit: Callable[[BatchWork], None],
        trace: ArrivalTrace,
        lend: Callable[[RunMicrobatch, float], None] | None = None,
        black_box: BlackBox | None = None,
    ) -> None:
        self._black_box = black_box or BlackBox()
        self._trace = trace
        self._controller = controller
        self._answering = answering
        self._instruments = instruments
        self._submit = submit
        self._lend = lend
        self._table = ItemTable()
        self._models: dict[str, tuple[Model, float]] = {}  # with the SLO in seconds
        self._suspended: dict[str, ServingError] = {}
        self._ids = count(1)
        self._launched: _Launched | None = None

    # ---- models ------------------------------------------------------------------------------------------------------

    def open_model(self, name: str, model: Model, slo_s: float) -> None:
        """Admit items of a model; the controller knows it already."""
        self._models[name] = (model, slo_s)

    def close_model(self, name: str, now: float) -> None:
        """Refuse a model's items from now on; those that wait are told that it is unloaded."""
        del self._models[name]
        error = Unavailable(f"model {name!r} is being unloaded", retry_after_s=UNLOADED_RETRY_S)
        for item_id in self._controller.remove_model(name):
            self._fail(item_id, error, now)

    def suspend_model(self, name: str, error: ServingError) -> None:
        """Refuse a model's items with `error` until it is resumed; those that wait are still run."""
        self._suspended[name] = error

    def resume_model(self, name: str) -> None:
        """Admit a model's items again."""
        self._suspended.pop(name, None)

    # ---- items come and go -------------------------------------------------------------------------------------------

    def offer(self, front: bytes, message: Offer, frames: Sequence[Frame], now: float) -> None:
        """Admit a whole request or refuse it: one item that is not taken refuses its siblings."""
        _, slo_s = self._models.get(message.model, (None, 0.0))
        deadline = message.arrived + slo_s if message.deadline is None else message.deadline
        self.cancel(front, message.request)  # offered again: only the last offer counts
        self._trace.record(message, deadline)
        suspended = self._suspended.get(message.model)
        if suspended is not None:
            self._refuse_request(front, message, suspended)
            return
        limit = self._controller.max_queue_size(message.model)
        if limit is not None and len(message.items) > limit:
            detail = f"{len(message.items)} items are more than may ever wait for {message.model}: {limit}"
            self._refuse_request(front, message, TooLarge(detail))
            return
        request = self._table.request(front, message.request, message.request_id, message.trace_id)
        for index, offered in enumerate(message.items):
            item = Item(
                id=ItemId(next(self._ids)),
                model=message.model,
                shape=offered.shape,
                arrived=message.arrived,
                deadline=deadline,
                priority=message.priority,
                alone=message.alone,
                accepted=message.accepted,
            )
            try:
                tensors = unpack_tensors(offered.tensors, frames)
            except LinkError as error:
                self._refuse_request(front, message, BadRequest(str(error)))
                return
            match self._controller.offer(item, now):
                case Admitted():
                    self._table.add(PendingItem(item=item, request=request, index=index, tensors=tensors))
                case Refused() as refused:
                    self._instruments.item_refused(message.model, refused.reason)
                    self._refuse_request(front, message, refusal_error(refused))
                    return
                case never:
                    assert_never(never)

    def cancel(self, front: bytes, request: int) -> None:
        """Forget what nobody waits for any more."""
        for item_id in self._table.drop_request(front, request):
            self._controller.cancel(item_id)

    def forget_front(self, front: bytes) -> None:
        """Forget everything that a front process asked for."""
        for number in self._table.numbers_of(front):
            self.cancel(front, number)

    def fail_all(self, error: ServingError, now: float) -> None:
        """Answer everything that is still open with `error`."""
        for pending in tuple(self._table):
            self._controller.cancel(pending.item.id)
            self._fail(pending.item.id, error, now)

    # ---- batches -----------------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether a batch is on the device."""
        return self._launched is not None

    @property
    def num_open(self) -> int:
        """Items admitted and not answered."""
        return len(self._table)

    def decide(self, now: float) -> float:
        """Give the free device its next batch, if it is time; return when to ask again."""
        while self._launched is None:
            match self._controller.next(now):
                case RunBatch() as decision:
                    self._launch(decision, now)
                case Expire(items=items):
                    self._expire(items, now)
                case Wait(until=until):
                    return until
                case RunMicrobatch() as lease:
                    assert self._lend is not None, "a lease was granted, but nobody trains"
                    self._lend(lease, now)
                case never:
                    assert_never(never)
        return math.inf

    def batch_done(self, done: BatchDone, now: float) -> None:
        """Tell the controller how its batch went, and answer the items."""
        launched = self._launched
        assert launched is not None, "a batch came back that was not launched"
        assert launched.decision.batch_id == done.work.batch_id, "another batch came back than was launched"
        self._launched = None
        self._black_box.batch_over()
        settled = self._controller.report(done.outcome)
        self._instruments.batch_over(launched.decision, done, launched.oldest_wait_s, settled.requeued)
        if isinstance(done.outcome, OutOfMemory):
            for item_id in settled.impossible:
                self._fail(item_id, _too_large_alone(settled.largest_fit), now)
            unloaded = Unavailable("the model was unloaded", retry_after_s=UNLOADED_RETRY_S)
            for item_id in settled.finished:
                self._fail(item_id, unloaded, now)
            return
        for item_id, answer in zip(launched.decision.items, done.answers, strict=True):
            if isinstance(answer, Failure):
                self._fail(item_id, answer.to_error(), now)
            else:
                self._answer(item_id, answer, launched, done)

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _launch(self, decision: RunBatch, now: float) -> None:
        model, _ = self._models[decision.model]
        pending = [self._open(item_id) for item_id in decision.items]
        oldest_wait_s = now - min(entry.item.arrived for entry in pending)
        self._launched = _Launched(decision, now, oldest_wait_s)
        self._black_box.batch(RunningItem(item.request.front, item.request.number, item.index) for item in pending)
        self._submit(
            BatchWork(
                batch_id=decision.batch_id,
                name=decision.model,
                model=model,
                items=tuple(entry.tensors for entry in pending),
                padded_shape=decision.padded_shape,
                elements=decision.elements,
                upper_s=decision.predicted_upper_s,
                requests=tuple((entry.request.request_id, entry.request.trace_id) for entry in pending),
            )
        )
        self._instruments.batch_launched(decision, oldest_wait_s)

    def _open(self, item_id: ItemId) -> PendingItem:
        pending = self._table.get(item_id)
        assert pending is not None, "the controller launched an item that nobody waits for"
        return pending

    def _expire(self, items: Iterable[ItemId], now: float) -> None:
        for item_id in items:
            pending = self._table.get(item_id)
            if pending is not None:
                self._instruments.item_expired(pending.item.model)
                over = pending.item.deadline <= now
                late = "passed before the item could run" if over else "would pass while it runs"
                self._fail(item_id, DeadlineExceeded(f"the deadline {late}"), now)

    def _answer(self, item_id: ItemId, answer: Tensors, launched: _Launched, done: BatchDone) -> None:
        pending = self._table.settle(item_id)
        if pending is None:
            return
        item = pending.item
        queue_s = max(0.0, launched.now - item.arrived)
        compute_s = done.finished - done.started
        size = len(launched.decision.items)
        if not self._answering.answer(pending, answer, batch_size=size, queue_s=queue_s, compute_s=compute_s):
            pending.request.failed = True
        self._instruments.item_answered(
            item.model, queue_s=queue_s, compute_s=compute_s, slack_s=item.deadline - done.finished
        )
        self._close_request(pending, done.finished)

    def _fail(self, item_id: ItemId, error: ServingError, now: float) -> None:
        pending = self._table.settle(item_id)
        if pending is None:
            return
        pending.request.failed = True
        self._answering.refuse(pending.request.front, pending.request.number, pending.index, error)
        self._close_request(pending, now)

    def _close_request(self, pending: PendingItem, now: float) -> None:
        if not pending.request.open:
            item = pending.item
            self._instruments.request_over(
                item.model,
                succeeded=not pending.request.failed,
                in_time=now <= item.deadline,
                seconds=max(0.0, now - item.arrived),
            )

    def _refuse_request(self, front: bytes, message: Offer, error: ServingError) -> None:
        self.cancel(front, message.request)
        for index in range(len(message.items)):
            self._answering.refuse(front, message.request, index, error)


def _too_large_alone(largest_fit: int | None) -> InsufficientMemory:
    fits = "" if largest_fit is None else f"; items of up to {largest_fit} padded elements are thought to fit"
    return InsufficientMemory(f"this item alone does not fit in the device's memory{fits}")
