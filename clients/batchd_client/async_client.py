"""The asyncio client. What is sent and how answers are read stands in calls.py and exchange.py."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Self, TypeVar, Unpack

import httpx
import numpy as np
import numpy.typing as npt

from batchd_client import calls
from batchd_client.connection_spread import ConnectionSpread
from batchd_client.exchange import Call, Done, Exchange, Pause
from batchd_client.following import Following
from batchd_client.httpx_bridge import LIMITS, answer_of, call_settings, failure_of, httpx_request
from batchd_client.infer_codec import InferOptions, InferResult, Inputs, ItemOptions, Parameter
from batchd_client.item_feed import ItemFeed
from batchd_client.json_object import JsonObject
from batchd_client.lease import AsyncLease
from batchd_client.lease_calls import LeaseTerms
from batchd_client.metadata import ModelMetadata, RepositoryEntry, ServerMetadata
from batchd_client.retry import RetryPolicy
from batchd_client.training_async import AsyncTraining
from batchd_client.training_records import JobEvent

T = TypeVar("T")


class AsyncClient:
    """Talks to a batchd server, or to any server of the Open Inference Protocol, from one event loop.

    `read_timeout_s` is how long a silent server is waited for where a call has no `timeout_s` of its own. `http` brings
    an httpx client with TLS settings, proxies or a transport of its own; the caller closes it.

    Raises:
        ValueError: the URL or the key cannot be used.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8080",
        *,
        api_key: str | None = None,
        retry: RetryPolicy | None = None,
        read_timeout_s: float | None = 60.0,
        http: httpx.AsyncClient | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings = call_settings(base_url, api_key=api_key, retry=retry, read_timeout_s=read_timeout_s)
        self._owns_http = http is None
        # One TLS context for all: reading the certificates takes longer than all the rest.
        tls = httpx.create_ssl_context() if http is None else False
        self._spread = ConnectionSpread(lambda: httpx.AsyncClient(limits=LIMITS, verify=tls) if http is None else http)
        self._clock = clock
        self._sleep = sleep
        self.training = AsyncTraining(self._run, self._listen, sleep, self._settings)
        """Training jobs and datasets."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._owns_http:
            for http in self._spread.clients:
                await http.aclose()

    async def infer(self, model: str, inputs: Inputs, **options: Unpack[InferOptions]) -> InferResult:
        """Infer arrays that carry the batch axis first.

        Raises:
            BatchdError: the call failed.
            ValueError: what was given cannot be sent.
        """
        return await self._run(calls.infer(model, inputs, options, options.get("request_id")))

    async def infer_many(
        self, model: str, items: Iterable[Inputs], *, concurrency: int = 32, **options: Unpack[ItemOptions]
    ) -> list[InferResult]:
        """Infer items of different shapes, each as a request of its own; the server batches them.

        The items' arrays and the results' carry no batch axis; the results come in the order of the items. `timeout_s`
        counts for each item from when it is sent. The first failure is raised, and the other items are given up.

        Raises:
            BatchdError: a call failed.
            ValueError: what was given cannot be sent.
        """
        feed = ItemFeed[Inputs, InferResult](items, workers=concurrency)

        async def work() -> None:
            for index, item in feed:
                with feed.working_on(index):
                    feed.put(index, await self._run(calls.infer_item(model, item, options)))

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(feed.workers):
                    workers.create_task(work())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return feed.results()

    async def embed(
        self,
        model: str,
        texts: str | Sequence[str],
        *,
        dimensions: int | None = None,
        timeout_s: float | None = None,
    ) -> npt.NDArray[np.float32]:
        """Return the texts' embeddings, one row each."""
        return await self._run(calls.embed(model, texts, dimensions, timeout_s))

    async def is_live(self, *, timeout_s: float | None = calls.PROBE_TIMEOUT_S) -> bool:
        """Return whether the server runs; False where it cannot be reached."""
        return await self._run(calls.is_live(timeout_s))

    async def is_ready(self, *, timeout_s: float | None = calls.PROBE_TIMEOUT_S) -> bool:
        """Return whether the server takes requests; False where it cannot be reached."""
        return await self._run(calls.is_ready(timeout_s))

    async def is_model_ready(
        self, model: str, *, model_version: str | None = None, timeout_s: float | None = calls.PROBE_TIMEOUT_S
    ) -> bool:
        """Return whether a model takes requests; False where it is unknown or cannot be reached."""
        return await self._run(calls.is_model_ready(model, model_version, timeout_s))

    async def server_metadata(self, *, timeout_s: float | None = None) -> ServerMetadata:
        """Return the server's name and extensions."""
        return await self._run(calls.server_metadata(timeout_s))

    async def model_metadata(
        self, model: str, *, model_version: str | None = None, timeout_s: float | None = None
    ) -> ModelMetadata:
        """Return what a model takes and gives."""
        return await self._run(calls.model_metadata(model, model_version, timeout_s))

    async def statistics(
        self, model: str | None = None, *, model_version: str | None = None, timeout_s: float | None = None
    ) -> JsonObject:
        """Return the statistics of one model, or of all, as the protocol's statistics extension has them."""
        return await self._run(calls.statistics(model, model_version, timeout_s))

    async def status(self, *, timeout_s: float | None = None) -> JsonObject:
        """Return the daemon's state (`GET /v1/status`)."""
        return await self._run(calls.status(timeout_s))

    async def models(self, *, timeout_s: float | None = None) -> tuple[RepositoryEntry, ...]:
        """Return the models that the server knows, loaded or not."""
        return await self._run(calls.models(timeout_s))

    async def load_model(
        self,
        model: str,
        *,
        parameters: Mapping[str, Parameter] | None = None,
        timeout_s: float | None = calls.LOAD_TIMEOUT_S,
    ) -> None:
        """Have a model loaded, and wait until it is."""
        await self._run(calls.load_model(model, parameters, timeout_s))

    async def unload_model(self, model: str, *, timeout_s: float | None = calls.LOAD_TIMEOUT_S) -> None:
        """Have a model unloaded, and wait until it is."""
        await self._run(calls.unload_model(model, timeout_s))

    def lease(
        self,
        name: str,
        *,
        weight: float = 1.0,
        expected_s: float | None = None,
        poll_s: float = 30.0,
        finish: Callable[[], object] | None = None,
    ) -> AsyncLease:
        """Return what lends this process the server's device while it is entered, for training of its own.

        Entering waits until the device can be spared; a server that is not there is waited for. `expected_s` is how
        long a lease will last, as far as that is known, `weight` the part of the device beside other training, and
        `poll_s` how long one call waits. `finish` is called before the device is given back, to wait for what it
        still runs (`torch.cuda.synchronize`).
        """
        terms = LeaseTerms(client=name, weight=weight, expected_s=expected_s, poll_s=poll_s)
        return AsyncLease(self._run, self._sleep, terms, finish)

    async def _run(self, call: Call[T]) -> T:
        exchange = Exchange(call, self._settings, self._clock())
        while True:
            match await self._attempt(exchange):
                case Done(value):
                    return value
                case Pause(seconds):
                    await self._sleep(seconds)

    async def _attempt(self, exchange: Exchange[T]) -> Done[T] | Pause:
        send = exchange.send(self._clock())
        try:
            # httpx's own timeout starts anew with every read: a trickle would never end.
            async with asyncio.timeout(send.wait_s):
                with self._spread.lend() as http:
                    request = httpx_request(http, self._settings, send)
                    response = await http.send(request, follow_redirects=False)
        except (httpx.RequestError, TimeoutError) as error:
            return exchange.failed(failure_of(error), self._clock())
        return exchange.answered(answer_of(response, response.content), self._clock())

    async def _listen(self, following: Following) -> AsyncGenerator[JobEvent]:
        """Yield the events that one connection brings."""
        try:
            with self._spread.lend() as http:
                request = httpx_request(http, self._settings, following.send())
                async with aclosing(await http.send(request, stream=True, follow_redirects=False)) as response:
                    if not response.is_success:
                        following.refused(answer_of(response, await response.aread()), self._clock())
                        return
                    following.opened(response.headers)
                    async for chunk in response.aiter_bytes():
                        for event in following.received(chunk):
                            yield event
                        if following.finished:
                            return
        except httpx.RequestError as error:
            following.failed(failure_of(error), self._clock())
        else:
            following.closed(self._clock())
