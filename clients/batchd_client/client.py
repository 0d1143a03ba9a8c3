"""The blocking client. What is sent and how answers are read stands in calls.py and exchange.py."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
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
from batchd_client.lease import Lease
from batchd_client.lease_calls import LeaseTerms
from batchd_client.metadata import ModelMetadata, RepositoryEntry, ServerMetadata
from batchd_client.retry import RetryPolicy
from batchd_client.training import Training
from batchd_client.training_records import JobEvent

T = TypeVar("T")


class Client:
    """Talks to a batchd server, or to any server of the Open Inference Protocol. Safe to share between threads.

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
        http: httpx.Client | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings = call_settings(base_url, api_key=api_key, retry=retry, read_timeout_s=read_timeout_s)
        self._owns_http = http is None
        # One TLS context for all: reading the certificates takes longer than all the rest.
        tls = httpx.create_ssl_context() if http is None else False
        self._spread = ConnectionSpread(lambda: httpx.Client(limits=LIMITS, verify=tls) if http is None else http)
        self._clock = clock
        self._sleep = sleep
        self.training = Training(self._run, self._listen, sleep, self._settings)
        """Training jobs and datasets."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        if self._owns_http:
            for http in self._spread.clients:
                http.close()

    def infer(self, model: str, inputs: Inputs, **options: Unpack[InferOptions]) -> InferResult:
        """Infer arrays that carry the batch axis first.

        Raises:
            BatchdError: the call failed.
            ValueError: what was given cannot be sent.
        """
        return self._run(calls.infer(model, inputs, options, options.get("request_id")))

    def infer_many(
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

        def work() -> None:
            for index, item in feed:
                with feed.working_on(index):
                    feed.put(index, self._run(calls.infer_item(model, item, options)))

        with ThreadPoolExecutor(feed.workers, thread_name_prefix="batchd-infer-many") as pool:
            try:
                for worker in [pool.submit(work) for _ in range(feed.workers)]:
                    worker.result()
            finally:
                feed.close()  # or an interrupt would wait for all the items
        return feed.results()

    def embed(
        self,
        model: str,
        texts: str | Sequence[str],
        *,
        dimensions: int | None = None,
        timeout_s: float | None = None,
    ) -> npt.NDArray[np.float32]:
        """Return the texts' embeddings, one row each."""
        return self._run(calls.embed(model, texts, dimensions, timeout_s))

    def is_live(self, *, timeout_s: float | None = calls.PROBE_TIMEOUT_S) -> bool:
        """Return whether the server runs; False where it cannot be reached."""
        return self._run(calls.is_live(timeout_s))

    def is_ready(self, *, timeout_s: float | None = calls.PROBE_TIMEOUT_S) -> bool:
        """Return whether the server takes requests; False where it cannot be reached."""
        return self._run(calls.is_ready(timeout_s))

    def is_model_ready(
        self, model: str, *, model_version: str | None = None, timeout_s: float | None = calls.PROBE_TIMEOUT_S
    ) -> bool:
        """Return whether a model takes requests; False where it is unknown or cannot be reached."""
        return self._run(calls.is_model_ready(model, model_version, timeout_s))

    def server_metadata(self, *, timeout_s: float | None = None) -> ServerMetadata:
        """Return the server's name and extensions."""
        return self._run(calls.server_metadata(timeout_s))

    def model_metadata(
        self, model: str, *, model_version: str | None = None, timeout_s: float | None = None
    ) -> ModelMetadata:
        """Return what a model takes and gives."""
        return self._run(calls.model_metadata(model, model_version, timeout_s))

    def statistics(
        self, model: str | None = None, *, model_version: str | None = None, timeout_s: float | None = None
    ) -> JsonObject:
        """Return the statistics of one model, or of all, as the protocol's statistics extension has them."""
        return self._run(calls.statistics(model, model_version, timeout_s))

    def status(self, *, timeout_s: float | None = None) -> JsonObject:
        """Return the daemon's state (`GET /v1/status`)."""
        return self._run(calls.status(timeout_s))

    def models(self, *, timeout_s: float | None = None) -> tuple[RepositoryEntry, ...]:
        """Return the models that the server knows, loaded or not."""
        return self._run(calls.models(timeout_s))

    def load_model(
        self,
        model: str,
        *,
        parameters: Mapping[str, Parameter] | None = None,
        timeout_s: float | None = calls.LOAD_TIMEOUT_S,
    ) -> None:
        """Have a model loaded, and wait until it is."""
        self._run(calls.load_model(model, parameters, timeout_s))

    def unload_model(self, model: str, *, timeout_s: float | None = calls.LOAD_TIMEOUT_S) -> None:
        """Have a model unloaded, and wait until it is."""
        self._run(calls.unload_model(model, timeout_s))

    def lease(
        self,
        name: str,
        *,
        weight: float = 1.0,
        expected_s: float | None = None,
        poll_s: float = 30.0,
        finish: Callable[[], object] | None = None,
    ) -> Lease:
        """Return what lends this process the server's device while it is entered, for training of its own.

        Entering waits until the device can be spared; a server that is not there is waited for. `expected_s` is how
        long a lease will last, as far as that is known, `weight` the part of the device beside other training, and
        `poll_s` how long one call waits. `finish` is called before the device is given back, to wait for what it
        still runs (`torch.cuda.synchronize`).
        """
        terms = LeaseTerms(client=name, weight=weight, expected_s=expected_s, poll_s=poll_s)
        return Lease(self._run, self._sleep, terms, finish)

    def _run(self, call: Call[T]) -> T:
        exchange = Exchange(call, self._settings, self._clock())
        while True:
            match self._attempt(exchange):
                case Done(value):
                    return value
                case Pause(seconds):
                    self._sleep(seconds)

    def _attempt(self, exchange: Exchange[T]) -> Done[T] | Pause:
        started = self._clock()
        send = exchange.send(started)
        try:
            with self._spread.lend() as http:
                request = httpx_request(http, self._settings, send)
                response = http.send(request, stream=True, follow_redirects=False)
                with closing(response):
                    body = self._read(response, None if send.wait_s is None else started + send.wait_s)
        except httpx.RequestError as error:
            return exchange.failed(failure_of(error), self._clock())
        return exchange.answered(answer_of(response, body), self._clock())

    def _listen(self, following: Following) -> Iterator[JobEvent]:
        """Yield the events that one connection brings."""
        try:
            with self._spread.lend() as http:
                request = httpx_request(http, self._settings, following.send())
                with closing(http.send(request, stream=True, follow_redirects=False)) as response:
                    if not response.is_success:
                        following.refused(answer_of(response, response.read()), self._clock())
                        return
                    following.opened(response.headers)
                    for chunk in response.iter_bytes():
                        yield from following.received(chunk)
                        if following.finished:
                            return
        except httpx.RequestError as error:
            following.failed(failure_of(error), self._clock())
        else:
            following.closed(self._clock())

    def _read(self, response: httpx.Response, give_up: float | None) -> bytes:
        chunks: list[bytes] = []
        for chunk in response.iter_bytes():
            # httpx's own timeout starts anew with every read: a trickle would never end.
            if give_up is not None and self._clock() > give_up:
                raise httpx.ReadTimeout("the answer came too slowly", request=response.request)
            chunks.append(chunk)
        return b"".join(chunks)
