"""The Dispatcher over the link: offers requests to whichever device process lives, until each is answered.

A request leaves its table only answered, refused, cancelled or late. While no device process is there it is held; a
new one, recognised by its incarnation, is offered everything that is still unanswered.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import os
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

from batchd_server.errors import DeadlineExceeded, ModelFailed, NotFound, Unavailable
from batchd_server.front.dispatcher import DeviceState, InferenceAnswer, InferenceRequest, ItemTiming
from batchd_server.front.standing_watch import StandingWatch
from batchd_server.link.codec import Frame, LinkError, pack_tensors
from batchd_server.link.control_calls import ControlCalls
from batchd_server.link.device_watch import DeviceWatch
from batchd_server.link.front_endpoint import FrontEndpoint
from batchd_server.link.item_shape import item_shape
from batchd_server.link.messages import (
    Announce,
    Answers,
    Cancel,
    Control,
    ControlReply,
    DeviceMessage,
    FrontMessage,
    Goodbye,
    Hello,
    Observations,
    Offer,
    OfferedItem,
)
from batchd_server.link.request_table import PendingRequest, RequestTable, Settlement
from batchd_server.models.protocol import Model
from batchd_server.observe.log_context import serving_id
from batchd_server.supervisor.standing import DeviceStanding, directory_of

log = logging.getLogger(__name__)

TICK_S = 0.25
OVERDUE_S = 60.0
"""Past its deadline by this much, a request that the device process has is given up by the front itself."""
MAX_ROWS = 100_000
RETRY_AFTER_S = 2.0


class LinkDispatcher:
    """Everything routes need of the device process. Lives in one event loop, between `open` and `close`."""

    def __init__(self, address: str, models: Mapping[str, Model], *, hang_timeout_s: float = 0.0) -> None:
        self._address = address
        self._models = models
        self._table = RequestTable()
        self._futures: dict[int, asyncio.Future[InferenceAnswer]] = {}
        self._calls = ControlCalls()
        self._requests = itertools.count(1)
        self._rows: deque[tuple[str, str, str, float, float]] = deque(maxlen=MAX_ROWS)
        self._ended: Counter[str] = Counter()
        self._endpoint: FrontEndpoint | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._linked = False
        self._device = DeviceWatch(models, hang_timeout_s)
        self._standing = StandingWatch(directory_of(address), time.monotonic, time.time)
        self._leaving = self._closing = False
        self._closed_at = math.inf

    def open(self) -> None:
        """Connect, now or as soon as there is a device process."""
        identity = f"front-{os.getpid()}-{os.urandom(4).hex()}".encode()
        self._table.front = identity
        self._endpoint = FrontEndpoint(
            self._address, identity, on_message=self._on_message, on_connection=self._on_connection
        )
        self._ticking = asyncio.create_task(self._tick())

    def leave(self) -> None:
        """Be not ready from now on, and serve all the same."""
        self._leaving = True

    def retire(self) -> None:
        """Serve on, but not for long: streams end, for their clients to go on elsewhere."""
        self._closing = True

    def begin_drain(self) -> None:
        """Refuse requests that arrive from now on; all others are still answered."""
        self._leaving = self._closing = True
        self._closed_at = min(self._closed_at, time.monotonic())
        self._calls.begin_drain()

    def abandon(self) -> None:
        """Tell whoever still waits that the server stops, and whoever comes yet."""
        self._closed_at = -math.inf
        self._calls.lose()
        for future in self._futures.values():
            if not future.done():
                future.set_exception(
                    Unavailable("the server is stopping", code="draining", retry_after_s=RETRY_AFTER_S)
                )

    async def close(self) -> None:
        """Abandon what still waits, say goodbye and disconnect."""
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.wait([self._ticking])
        self.abandon()
        self._ship()
        if self._endpoint is not None:
            self._send(Goodbye())
            self._endpoint.close()
        self._endpoint = None

    def model(self, name: str) -> Model:
        """Return the front half of a configured model.

        Raises:
            NotFound: no model of that name is configured.
        """
        try:
            return self._models[name]
        except KeyError:
            raise NotFound(f"model {name!r} is not configured", field="model") from None

    def state(self) -> DeviceState:
        """Return the last announced state, without asking."""
        heard = self._device.last
        if heard is None:
            return DeviceState(
                connected=False, ready=False, draining=self._leaving, closing=self._closing, pid=None, models=()
            )
        connected = self._device.present is not None and not self._device.is_silent(time.monotonic())
        return DeviceState(
            connected=connected,
            ready=connected and heard.ready,
            draining=self._leaving or heard.draining,
            closing=self._closing,
            pid=heard.pid if connected else None,
            models=heard.models,
            training_trouble=heard.training_trouble if connected else "",
        )

    @property
    def serves(self) -> bool:
        """Whether requests that come now are answered, or wait until they can be, rather than refused."""
        return self._device.present is not None and self._device.was_ready

    def standing(self) -> DeviceStanding | None:
        """Return what the supervisor says of the device process."""
        return self._standing.look()

    def num_pending(self) -> int:
        """Return how many requests wait for their answers."""
        return len(self._table)

    async def infer(self, request: InferenceRequest) -> InferenceAnswer:
        """Have every item answered. Cancelling this coroutine cancels what has not run.

        Raises:
            ServingError: the request was refused, failed or missed its deadline.
        """
        self._check_open(request.model, request.arrived)
        if not request.items:
            return InferenceAnswer(outputs=())
        pending = self._pending(request)
        number = pending.offer.request
        convicted = self._table.add(pending, time.monotonic())
        if convicted is not None:
            raise convicted
        loop = asyncio.get_running_loop()
        future: asyncio.Future[InferenceAnswer] = loop.create_future()
        self._futures[number] = future
        self._offer(pending)
        # both are CLOCK_MONOTONIC, but an event loop may count from elsewhere
        timer = loop.call_later(max(0.0, pending.deadline - time.monotonic()), self._on_deadline, number)
        try:
            return await future
        finally:
            timer.cancel()
            del self._futures[number]
            left = self._table.remove(number)
            if left is not None and left.aboard:
                self._send(Cancel(number))

    async def control(self, action: str, **arguments: Any) -> Any:
        """Ask the device process: `load`, `unload`, `status`, `statistics`, `metrics` or `decisions`.

        Raises:
            ServingError: as the device process answered, or Unavailable where it does not answer.
        """
        if self._device.present is not None:
            self._check_heard(self._device.is_silent(time.monotonic()))
        if action == "metrics":
            self._ship()
        control: Control = self._calls.begin(action, arguments)
        if self._device.present is None or not self._send(control):
            self._calls.forget(control)
            raise Unavailable("the device process is not there", retry_after_s=RETRY_AFTER_S)
        return await self._calls.reply(control)

    def observe(self, model: str, api: str, outcome: str, duration_s: float, overhead_s: float) -> None:
        """Keep one row until the next shipment; with no device process for long, the oldest rows go."""
        self._rows.append((model, api, outcome, duration_s, overhead_s))

    def connection_ended(self, limit: str) -> None:
        """Count a connection that met a limit, for the next shipment."""
        self._ended[limit] += 1

    def _check_open(self, model: str, arrived: float) -> None:
        if arrived >= self._closed_at:
            raise Unavailable("the server is stopping", code="draining", retry_after_s=RETRY_AFTER_S)
        refusal = None if self._device.present else self._standing.refusal()
        if refusal is not None:
            raise refusal
        if not self._device.was_ready:
            raise Unavailable("the server is starting", code="starting", retry_after_s=RETRY_AFTER_S)
        # gone or hanging: another one is on its way, and requests wait for it; for long: they are better off elsewhere
        self._check_heard(self._device.is_given_up(time.monotonic()))
        self.model(model)

    def _check_heard(self, lost: bool) -> None:
        if lost:
            raise Unavailable("the device process does not answer", code="device_lost", retry_after_s=RETRY_AFTER_S)

    def _pending(self, request: InferenceRequest) -> PendingRequest:
        frames: list[Frame] = []
        model = self._models[request.model]
        try:
            items = tuple(OfferedItem(item_shape(model, item), pack_tensors(item, frames)) for item in request.items)
        except LinkError as error:
            raise ModelFailed(
                f"model {request.model!r} preprocessed an item to what cannot be sent: {error}"
            ) from error
        offer = Offer(
            request=next(self._requests),
            model=request.model,
            items=items,
            arrived=request.arrived,
            deadline=request.deadline,
            priority=request.priority,
            request_id=serving_id("request_id"),
            trace_id=serving_id("trace_id"),
        )
        deadline = request.deadline
        if deadline is None:
            deadline = request.arrived + self._device.slo_s(request.model)
        return PendingRequest(offer=offer, frames=frames, deadline=deadline)

    def _offer(self, pending: PendingRequest) -> None:
        """Send a request to a device process that can take it; it stays held otherwise."""
        if self._device.takes(pending.offer.model) and self._table.may_board(pending, time.monotonic()):
            pending.aboard = self._send(pending.message, pending.frames)
        pending.accepted |= not pending.aboard

    def _offer_held(self) -> None:
        for pending in self._table.held():
            self._offer(pending)

    def _send(self, message: FrontMessage, frames: list[Frame] | None = None) -> bool:
        return self._endpoint is not None and self._endpoint.send(message, frames or ())

    def _ship(self) -> None:
        if not (self._rows or self._ended) or self._device.present is None:
            return
        if self._send(Observations(tuple(self._rows), dict(self._ended))):
            self._rows.clear()
            self._ended.clear()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._ship()
            # the greeting may have met a device process that was not listening yet
            if self._linked and self._device.present is None:
                self._send(Hello(os.getpid()))
            if self._device.present is None and self._futures:
                self._refuse_held()

    def _refuse_held(self) -> None:
        """Tell those who wait for a device process that keeps dying."""
        refusal = self._standing.refusal()
        if refusal is None:
            return
        for future in self._futures.values():
            if not future.done():
                future.set_exception(refusal)

    def _on_connection(self, connected: bool) -> None:
        self._linked = connected
        if connected:
            self._send(Hello(os.getpid()))
        else:
            self._lose()

    def _on_message(self, message: DeviceMessage, frames: list[memoryview]) -> None:
        match message:
            case Answers(answers):
                for answer in answers:
                    settlement = self._table.settle(answer, frames)
                    if settlement is not None:
                        self._finish(settlement)
                if self._table.acquitted():
                    self._offer_held()
            case Announce():
                self._on_announce(message)
            case ControlReply():
                self._calls.settle(message)

    def _on_announce(self, announce: Announce) -> None:
        if self._device.is_new(announce):
            self._lose()
            log.info("connected to device process %d", announce.pid)
            for settlement in self._table.judge(announce, time.monotonic()):
                self._finish(settlement)
        self._device.hear(announce, time.monotonic())
        self._offer_held()

    def _lose(self) -> None:
        if self._device.present is None:
            return
        log.warning(
            "lost device process %d; %d requests wait for the next one", self._device.present.pid, len(self._table)
        )
        lost = self._device.present.incarnation
        self._device.lose()
        self._calls.lose()
        for settlement in self._table.lose(lost, time.monotonic()):
            self._finish(settlement)

    def _finish(self, settlement: Settlement) -> None:
        offer = settlement.request.offer
        future = self._futures.get(offer.request)
        if future is None or future.done():
            return
        if settlement.error is None:
            future.set_result(_answer(settlement.request))
            return
        future.set_exception(settlement.error)
        # the items beside the one that failed need not run any more
        if settlement.request.aboard and len(offer.items) > len(settlement.request.outputs) + 1:
            self._send(Cancel(offer.request))

    def _on_deadline(self, number: int) -> None:
        pending = self._table.get(number)
        if pending is None:
            return
        now = time.monotonic()
        if pending.aboard and now < pending.deadline + OVERDUE_S:
            # the device process answers what it has, late ones with an error; this is only for what it forgot
            asyncio.get_running_loop().call_later(OVERDUE_S, self._on_deadline, number)
            return
        future = self._futures.get(number)
        if future is not None and not future.done():
            future.set_exception(DeadlineExceeded("the deadline passed before the device process was ready"))


def _answer(request: PendingRequest) -> InferenceAnswer:
    answers = [request.answers[index] for index in range(len(request.offer.items))]
    return InferenceAnswer(
        outputs=[request.outputs[answer.index] for answer in answers],
        timings=[
            ItemTiming(batch_size=answer.batch_size, queue_s=answer.queue_s, compute_s=answer.compute_s)
            for answer in answers
        ],
    )
