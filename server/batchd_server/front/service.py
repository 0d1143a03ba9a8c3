"""What every route works with: the settings, the way to the device, and the way of one inference through them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from starlette.requests import Request

from batchd.policy import ModelPolicy
from batchd_server.config.policies import model_policy
from batchd_server.config.settings import BatchingSettings, Settings
from batchd_server.errors import BadRequest, DeadlineExceeded, NotFound, TooLarge
from batchd_server.front.disconnects import run_while_awaited
from batchd_server.front.dispatcher import Dispatcher, InferenceAnswer, InferenceRequest
from batchd_server.front.limits import content_encoding, inflate, read_body
from batchd_server.front.observer import Observation, Observer
from batchd_server.front.preparation import Preparation
from batchd_server.front.training.store_access import StoreAccess
from batchd_server.models.protocol import Model
from batchd_server.models.spec import Array, Tensors
from batchd_server.models.validation import split_items

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """One front process. `started` is its first moment, in seconds since the epoch."""

    settings: Settings
    dispatcher: Dispatcher
    observer: Observer
    preparation: Preparation
    training: StoreAccess
    started: float
    release: str
    """batchd's own version."""
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
        """Return the request's body, inflated where it was sent compressed.

        Raises:
            TooLarge: over `max_body_bytes`, as sent or inflated.
            UnsupportedEncoding: compressed by a method that is not supported.
            BadRequest: damaged compressed data.
        """
        encoding = content_encoding(request)
        limit = self.settings.server.max_body_bytes
        body = await read_body(request, limit)
        if encoding is None:
            return body
        return await self.preparation.in_thread(lambda: inflate(body, encoding, limit))

    async def prepare(self, model: str, body: bytes, work: Callable[[], T]) -> T:
        """Run the decoding and preprocessing of `body` where it does not hold up other requests."""
        return await self.preparation.run(model, len(body), work)

    def items(self, model: Model, tensors: Sequence[tuple[str, Array]], *, first: int = 0) -> list[Tensors]:
        """Check `tensors` (batch axis first) against the model's inputs, and preprocess each item.

        Raises:
            BadRequest: something does not fit; the message names the tensor, or the item counted from `first`.
            TooLarge: more items than one request may hold.
        """
        self.check_items(max((array.shape[0] for _, array in tensors if array.ndim), default=0))
        prepared = []
        for index, item in enumerate(split_items(model.inputs, tensors), start=first):
            try:
                prepared.append(model.preprocess(item))
            except ValueError as error:
                raise BadRequest(f"item {index}: {error}", field="inputs") from error
        return prepared

    def check_items(self, num_items: int, field: str = "inputs") -> None:
        """Refuse requests of too many items; `field` is what the protocol calls them.

        Raises:
            TooLarge: more than `max_items_per_request`.
        """
        limit = self.settings.server.max_items_per_request
        if num_items > limit:
            raise TooLarge(f"{num_items} items are more than the {limit} that one request may hold", field=field)

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
        call = InferenceRequest(
            model=observation.model,
            items=items,
            arrived=observation.arrived,
            deadline=deadline,
            priority=priority,
            api=api,
        )
        begun = time.monotonic()
        remaining = None if deadline is None else deadline - begun
        if remaining is not None and remaining <= 0:
            raise DeadlineExceeded("the deadline of the request passed while it was read")
        try:
            return await run_while_awaited(self.dispatcher.infer(call), request.receive, remaining)
        finally:
            observation.waited_s = time.monotonic() - begun
