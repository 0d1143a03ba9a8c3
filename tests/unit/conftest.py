"""Fixtures of the client tests: every test that takes `connect` covers both clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from client_rig import Blocking, Handler, VirtualTime

from batchd_client import (
    AsyncClient,
    Client,
)


@pytest.fixture
def time() -> VirtualTime:
    return VirtualTime()


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest, time: VirtualTime) -> Callable[..., Any]:
    """Return a maker of clients whose server is a function."""

    def make(handler: Handler, **settings: Any) -> Any:
        transport = httpx.MockTransport(handler)
        if request.param == "sync":
            http = httpx.Client(transport=transport)
            return Client("http://server/prefix/", http=http, clock=time, sleep=time.sleep, **settings)
        async_http = httpx.AsyncClient(transport=transport)
        return Blocking(
            AsyncClient("http://server/prefix/", http=async_http, clock=time, sleep=time.sleep_async, **settings)
        )

    return make
