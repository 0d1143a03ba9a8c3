"""What every route works with: the settings, the way to the device, and the way of one inference through them."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from starlette.requests import Request

from batchd.policy import ModelPolicy
from batchd_server.config.policies import model_policy
from batchd_server.config.settings import BatchingSettings, Settings
from batchd_server.errors import DeadlineExceeded, NotFound
from batchd_server.front.attempts import attempted
from batchd_server.front.connection_watch import ConnectionWatch
from batchd_server.front.disconnects import run_while_awaited
from batchd_server.front.dispatcher import Dispatcher, InferenceAnswer, InferenceRequest
from batchd_server.front.items import prepared_items
from batchd_server.front.limits import IncomingBytes, content_encoding, inflate, read_body
from batchd_server.front.observer import Observation, Observer
from batchd_server.front.preparation import Preparation
from batchd_server.front.shedding import Shedding
from batchd_server.front.training.store_access import StoreAccess
from batchd_server.front.way_back import WayBack
from batchd_server.models.protocol import Model
from batchd_server.models.spec import Array, Tensors

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """One front process. `started` is its first moment, in seconds since the epoch."""

    settings: Settings
    dispatcher: Dispatcher
    observer: Observer
    preparation: Preparation
    training: StoreAccess
    watch: ConnectionWatch
    incoming: IncomingBytes
    started: float
    release: str
    """batchd's own version."""
    shedding: Shedding = field(default_factory=Shedding)
    way_back: WayBack = field(default_factory=WayBack)
    _policies: dict[str, ModelPolicy] = field(default_factory=dict)

    def version(self, model: str) -> str:
        """Return the one version of `model` that is served."""
        configured = self.settings.models.get(model)
        return "1" if configured is None else configured.version

    def model(self, name: str, version: str | None = None) -> Model:
        """Return the front half of a model.

        Raises:
            NotFound: no such model is configured, or not in that version.
        """
        model = self.dispatcher.model(name)
        if version is not None and version != self.version(name):
            raise NotFound(f"model {name!r} is served in version {self.version(name)!r} only", field="version")
        return model

    def policy(self, model: str) -> ModelPolicy:
        """Return the batching policy of a configured model."""
        policy = self._policies.get(model)
        if policy is None:
            configured = self.settings.models.get(model)
            policy = self._policies[model] = model_policy(
                BatchingSettings() if configured is None else configured.batching,
                self.settings.defaults.batching,
                type(self.dispatcher.model(model)),
            )
        return policy

    def observed(self, api: str) -> Observation:
        """Return the record of a request that begins now."""
        return Observation(self.observer, api)

    async def body(self, request: Request) -> bytes:
        """Return the request's body, inflated where it was sent compressed, for one who decodes it at once.

        Raises:
            ServingError: as `body_held`.
        """
        async with self.body_held(request) as body:
            return body

    @asynccontextmanager
    async def body_held(self, request: Request) -> AsyncGenerator[bytes]:
        """Give the request's body, inflated where it was sent compressed; it counts as incoming while this lasts.

        Raises:
            TooLarge: over `max_body_bytes`, as sent or inflated.
            Unavailable: other bodies take all of `max_incoming_bytes`.
            UnsupportedEncoding: compressed by a method that is not supported.
            BadRequest: damaged compressed data.
        """
        encoding = content_encoding(request)
        limit = self.settings.server.max_body_bytes
        with self.incoming.charge() as charge:
            body = await read_body(request, limit, charge)
            if encoding is not None:
                num_sent = len(body)
                body = await self.preparation.in_thread(partial(inflate, body, encoding, limit, charge.take))
                charge.give_back(num_sent)
            yield body

    async def prepare(self, model: str, body: bytes, work: Callable[[], T]) -> T:
        """Run the decoding and preprocessing of `body` where it does not hold up other requests."""
        return await self.preparation.run(model, len(body), work)

    def items(self, model: Model, tensors: Sequence[tuple[str, Array]]) -> list[Tensors]:
        """Check `tensors` (batch axis first) against the model's inputs, and preprocess each item.

        Raises:
            BadRequest: something does not fit; the message names the tensor, or the item.
            TooLarge: more items than one request may hold.
            ModelFailed: the model's preprocessing failed otherwise.
        """
        return prepared_items(model, tensors, self.settings.server.max_items_per_request)

    async def infer(
        self,
        request: Request,
        observation: Observation,
        items: Sequence[Tensors],
        *,
        api: str,
        timeout_s: float | None,
        priority: int = 0,
    ) -> InferenceAnswer:
        """Have `items` answered, for as long as the client waits for them.

        Raises:
            ServingError: the request was refused, failed or missed its deadline.
            ClientGone: the client has left.
        """
        deadline = None if timeout_s is None else observation.arrived + timeout_s
        limit_s = self.policy(observation.model).slo_s if timeout_s is None else timeout_s
        reserve_s = self.way_back.reserve_s(limit_s)
        call = InferenceRequest(
            model=observation.model,
            items=items,
            arrived=observation.arrived,
            deadline=observation.arrived + limit_s - reserve_s if reserve_s else deadline,
            priority=priority,
            api=api,
        )
        begun = time.monotonic()
        remaining = None if deadline is None else deadline - begun
        if remaining is not None and remaining <= 0:
            raise DeadlineExceeded("the deadline of the request passed while it was read")
        try:
            with attempted(self.shedding, request, model=call.model, api=api, priority=priority, timeout_s=timeout_s):
                answer = await run_while_awaited(self.dispatcher.infer(call), request.receive, remaining)
            self._learn_way_back(observation, answer)
            return answer
        finally:
            observation.waited_s = time.monotonic() - begun

    def _learn_way_back(self, observation: Observation, answer: InferenceAnswer) -> None:
        """Measure from the moment at which the device was done with the last item."""
        if answer.timings:
            on_device_s = max(timing.queue_s + timing.compute_s for timing in answer.timings)
            self.way_back.observe(time.monotonic() - observation.arrived - on_device_s)
