"""Concurrent requests are spread over several httpx clients; lone ones always use the same."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from batchd_client.connection_spread import REQUESTS_PER_CLIENT, ConnectionSpread


def test_one_request_after_another_uses_the_same_client() -> None:
    spread = ConnectionSpread(object)
    used = set()
    for _ in range(3 * REQUESTS_PER_CLIENT):
        with spread.lend() as http:
            used.add(http)
    assert used == {*spread.clients}
    assert len(used) == 1


def test_no_client_has_more_than_a_few_requests_at_once() -> None:
    spread = ConnectionSpread(object)
    with ExitStack() as requests:
        lent = [requests.enter_context(spread.lend()) for _ in range(3 * REQUESTS_PER_CLIENT)]
        assert all(lent.count(http) == REQUESTS_PER_CLIENT for http in lent)
    assert len(spread.clients) == 3
    with spread.lend() as http:
        assert http is lent[0]


def test_a_failed_request_gives_its_place_back() -> None:
    spread = ConnectionSpread(object)

    def fail() -> None:
        with spread.lend():
            raise RuntimeError("request failed")

    for _ in range(2 * REQUESTS_PER_CLIENT):
        with pytest.raises(RuntimeError):
            fail()
    assert len(spread.clients) == 1
