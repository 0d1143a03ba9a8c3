"""A server that is a function, and a clock that only sleeping moves, for the tests of the clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from batchd_client import (
    AsyncClient,
)

Handler = Callable[[httpx.Request], httpx.Response]
LENGTH = "inference-header-content-length"


@dataclass
class VirtualTime:
    """A clock that only sleeping moves."""

    now: float = 0.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


class Blocking:
    """An AsyncClient whose methods block, so that one test covers both clients."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        async def run(*args: Any, **options: Any) -> Any:
            return await method(*args, **options)

        return lambda *args, **options: asyncio.run(run(*args, **options))


def echo(request: httpx.Request) -> httpx.Response:
    """Answer an inference request with its inputs as outputs, in binary if asked for."""
    length = request.headers.get(LENGTH)
    head = json.loads(request.content if length is None else request.content[: int(length)])
    answer = {"model_name": "m", "model_version": "1", "id": head.get("id"), "outputs": head["inputs"]}
    text = json.dumps(answer).encode()
    if length is None:
        return httpx.Response(200, content=text)
    return httpx.Response(200, headers={LENGTH: str(len(text))}, content=text + request.content[int(length) :])
