"""The one place that knows httpx's requests and exceptions; shared by both clients."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx

from batchd_client.exchange import CallSettings, Failure, FailureKind, Send
from batchd_client.retry import RetryPolicy
from batchd_client.wire import Answer

CONNECT_TIMEOUT_S = 5.0
CHUNK_BYTES = 256 * 1024
KEY_VARIABLE = "BATCHD_API_KEY"
"""Where a key is looked for that no caller gives."""

LIMITS = httpx.Limits(
    max_connections=None,  # how much is sent at once is the caller's decision
    max_keepalive_connections=None,
    keepalive_expiry=4.0,  # below the 5 s after which servers commonly close an idle connection
)


def call_settings(
    base_url: str, *, api_key: str | None, retry: RetryPolicy | None, read_timeout_s: float | None
) -> CallSettings:
    """Check and join what all calls of a client share. Without an `api_key` it is the environment's, if there is one.

    Raises:
        ValueError: the URL or the key cannot be used.
    """
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ValueError(f"base_url {base_url!r}: {error}") from None
    if url.scheme not in {"http", "https"} or not url.host or url.query or url.fragment:
        raise ValueError(f"base_url {base_url!r} is not of the form http[s]://host[:port][/prefix]")
    headers = {"user-agent": "batchd-client"}
    if api_key is None:
        api_key = os.environ.get(KEY_VARIABLE) or None
    if api_key is not None:
        if not (api_key.isascii() and api_key.isprintable() and api_key.strip() == api_key != ""):
            raise ValueError("api_key is empty or holds characters that a header cannot carry")
        headers["authorization"] = f"Bearer {api_key}"
    return CallSettings(
        base_url=base_url.rstrip("/"),
        headers=headers,
        retry=RetryPolicy() if retry is None else retry,
        read_timeout_s=read_timeout_s,
    )


def httpx_request(http: httpx.Client | httpx.AsyncClient, settings: CallSettings, send: Send) -> httpx.Request:
    """Return the attempt as httpx performs it."""
    connect_s = CONNECT_TIMEOUT_S if send.wait_s is None else min(CONNECT_TIMEOUT_S, send.wait_s)
    headers = dict(send.request.headers)
    content: bytes | Iterator[bytes] | AsyncIterator[bytes] | None = send.request.body or None
    if send.request.file is not None:
        headers["content-length"] = str(send.request.file.stat().st_size)
        content = _chunks(send.request.file)
        if isinstance(http, httpx.AsyncClient):
            content = _read_aside(content)
    return http.build_request(
        send.request.method,
        settings.base_url + send.request.path,
        headers=headers,
        content=content,
        timeout=httpx.Timeout(send.wait_s, connect=connect_s),
    )


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            yield chunk


async def _read_aside(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Read in a thread, so that a slow disk does not hold up the event loop."""
    while chunk := await asyncio.to_thread(next, chunks, b""):
        yield chunk


def answer_of(response: httpx.Response, body: bytes) -> Answer:
    """Return a response whose body has been read."""
    return Answer(status=response.status_code, headers=response.headers, body=body, received=time.time())


def failure_of(error: httpx.RequestError | TimeoutError) -> Failure:
    """Sort what went wrong instead of an answer."""
    message = str(error) or type(error).__name__
    match error:
        case httpx.ConnectTimeout():
            return Failure(FailureKind.LOST, f"cannot connect: {message}")
        case TimeoutError() | httpx.TimeoutException():
            return Failure(FailureKind.TIMED_OUT, f"no answer in time: {message}")
        case httpx.ConnectError() | httpx.ProxyError():
            return Failure(FailureKind.LOST, f"cannot connect: {message}")
        case httpx.NetworkError() | httpx.RemoteProtocolError():
            return Failure(FailureKind.LOST, f"the connection broke: {message}")
        case httpx.DecodingError():
            return Failure(FailureKind.GARBLED, f"the answer cannot be decompressed: {message}")
        case _:
            return Failure(FailureKind.REFUSED, message)
