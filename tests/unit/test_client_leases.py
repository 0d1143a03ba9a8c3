"""Leases through both clients: what they send, and how they come through restarts, refusals and late returns."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx
import pytest
from client_rig import VirtualTime

from batchd_client import AsyncClient, BadRequest, Client, LeaseExpired, LeaseRecord, RetryPolicy, leased

ONCE = RetryPolicy(max_attempts=1)


@dataclass
class Lender:
    """A daemon that lends its device. What stands in `ahead` is answered first, an exception by raising it."""

    ahead: list[httpx.Response | Exception] = field(default_factory=list)
    expired: bool = False
    asked: list[dict[str, Any]] = field(default_factory=list)
    returned: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    held: str | None = None
    _count: int = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        if self.ahead:
            answer = self.ahead.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        if request.url.path == "/v1/leases":
            self.asked.append(body)
            return httpx.Response(200, json=self._lease())
        lease = request.url.path.split("/")[3]
        if lease != self.held:
            return httpx.Response(404, json={"detail": "there is no such lease"})
        self.returned.append((lease, body))
        self.held = None
        following = self._lease() if "next" in body else None
        return httpx.Response(200, json={"held_s": 1, "expired": self.expired, "lease": following})

    def _lease(self) -> dict[str, Any]:
        assert self.held is None, "the device was lent twice"
        self._count += 1
        self.held = f"lease-{self._count}"
        return {"id": self.held, "client": "me", "limit_s": 1, "predicted_s": None, "waited_s": 0.25}


class Hold(Protocol):
    """Holds a lease, renews it so many times, and gives it back."""

    def __call__(self, lender: Lender, renewals: int = 0, body: Callable[[], None] = ..., **terms: Any) -> LeaseRecord:
        """Return the record."""
        ...


@pytest.fixture(params=["sync", "async"])
def hold(request: pytest.FixtureRequest, time: VirtualTime) -> Hold:
    def through_client(
        lender: Lender, renewals: int = 0, body: Callable[[], None] = lambda: None, **terms: Any
    ) -> LeaseRecord:
        http = httpx.Client(transport=httpx.MockTransport(lender))
        client = Client("http://server", http=http, clock=time, sleep=time.sleep, retry=ONCE)
        lease = client.lease("me", **terms)
        with lease:
            for _ in range(renewals):
                lease.renew()
            body()
        assert lease.limit_s is None
        return lease.record

    def through_async_client(
        lender: Lender, renewals: int = 0, body: Callable[[], None] = lambda: None, **terms: Any
    ) -> LeaseRecord:
        async def run() -> LeaseRecord:
            http = httpx.AsyncClient(transport=httpx.MockTransport(lender))
            client = AsyncClient("http://server", http=http, clock=time, sleep=time.sleep_async, retry=ONCE)
            lease = client.lease("me", **terms)
            async with lease:
                for _ in range(renewals):
                    await lease.renew()
                body()
            assert lease.limit_s is None
            return lease.record

        return asyncio.run(run())

    return through_client if request.param == "sync" else through_async_client


def test_the_device_is_asked_for_and_given_back(hold: Hold) -> None:
    lender = Lender()
    record = hold(lender, weight=2.0, expected_s=0.02, poll_s=5.0)
    assert lender.asked == [{"client": "me", "weight": 2.0, "expected_s": 0.02, "timeout_s": 5.0}]
    assert lender.returned == [("lease-1", {})]
    assert record == LeaseRecord(num_leases=1, num_expired=0, held_s=1.0, waited_s=0.25)


def test_a_renewal_is_one_call(hold: Hold) -> None:
    lender = Lender()
    record = hold(lender, renewals=2, poll_s=5.0)
    assert len(lender.asked) == 1
    following = {"next": {"timeout_s": 5.0}}
    assert lender.returned == [("lease-1", following), ("lease-2", following), ("lease-3", {})]
    assert record.num_leases == 3


def test_a_renewal_that_is_not_granted_in_time_asks_anew(hold: Hold) -> None:
    lender = Lender()

    def deny_once(request: httpx.Request) -> httpx.Response:
        if "next" in json.loads(request.content) and not denied:
            denied.append(True)
            lender.held = None
            return httpx.Response(200, json={"held_s": 0.5, "expired": False, "lease": None})
        return lender(request)

    denied: list[bool] = []
    record = hold(deny_once, renewals=1)  # type: ignore[arg-type]
    assert (len(lender.asked), record.num_leases) == (2, 2)


def test_the_device_is_given_back_when_the_body_fails(hold: Hold) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    lender = Lender()
    with pytest.raises(ZeroDivisionError):
        hold(lender, body=fail)
    assert lender.held is None


def test_what_the_device_still_runs_is_waited_for_before_it_is_given_back(hold: Hold) -> None:
    lender = Lender()
    held: list[str | None] = []
    hold(lender, renewals=1, finish=lambda: held.append(lender.held))
    assert held == ["lease-1", "lease-2"]


@pytest.mark.parametrize(
    "trouble",
    [
        lambda: httpx.ConnectError("refused"),
        lambda: httpx.ReadError("reset"),
        lambda: httpx.ReadTimeout("silent"),
        lambda: httpx.Response(503, json={"detail": "starting"}),
        lambda: httpx.Response(429, json={"detail": "too many"}),
        lambda: httpx.Response(500, json={"detail": "broken"}),
    ],
)
def test_a_daemon_that_is_away_is_waited_for_and_said_to_be(
    hold: Hold, time: VirtualTime, caplog: pytest.LogCaptureFixture, trouble: Callable[[], httpx.Response | Exception]
) -> None:
    lender = Lender(ahead=[trouble() for _ in range(8)])
    hold(lender)
    assert len(lender.returned) == 1
    assert len(time.slept) == 8
    assert time.slept[-1] > 2.0 > time.slept[0] > 0, "it is asked less and less often"
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "waits for the daemon" in messages[0]
    assert "reached the daemon again, after 8 attempts" in messages[1]


def test_a_daemon_that_has_restarted_meanwhile_knows_no_lease(hold: Hold, caplog: pytest.LogCaptureFixture) -> None:
    lender = Lender()

    def restart() -> None:
        lender.held = None

    record = hold(lender, body=restart)
    assert "restarted" in caplog.text
    assert record.num_leases == 1


def test_a_restart_before_a_renewal_costs_one_more_call(hold: Hold, caplog: pytest.LogCaptureFixture) -> None:
    lender = Lender()
    gone = [True]

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/return") and gone:
            gone.clear()
            lender.held = None
        return lender(request)

    record = hold(handler, renewals=1)  # type: ignore[arg-type]
    assert "restarted" in caplog.text
    assert (len(lender.asked), record.num_leases) == (2, 2)


def test_a_lease_that_cannot_be_returned_expires_by_itself(hold: Hold, caplog: pytest.LogCaptureFixture) -> None:
    lender = Lender()
    hold(lender, body=lambda: lender.ahead.append(httpx.ConnectError("refused")))
    assert "expires by itself" in caplog.text


def test_a_lease_that_expired_is_a_warning_that_names_the_times(hold: Hold) -> None:
    with pytest.warns(LeaseExpired, match=r"me held lease-1 for 1 s; its limit was 1 s"):
        record = hold(Lender(expired=True))
    assert record.num_expired == 1


def test_the_warning_can_be_made_an_error(hold: Hold) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", LeaseExpired)
        with pytest.raises(LeaseExpired):
            hold(Lender(expired=True))


def test_no_lease_for_long_is_said_less_and_less_often(hold: Hold, caplog: pytest.LogCaptureFixture) -> None:
    refusals = [httpx.Response(204, headers={"x-lease-denied": "too_long"}) for _ in range(20)]
    hold(Lender(ahead=[*refusals]), poll_s=30.0)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 5  # after 1, 2, 4, 8 and 16 calls
    assert "me has waited 480 s for the device: too_long" in said[-1]


def test_what_the_daemon_does_not_understand_is_raised_at_once(hold: Hold, time: VirtualTime) -> None:
    with pytest.raises(BadRequest):
        hold(Lender(ahead=[httpx.Response(400, json={"detail": "no", "field": "client"})]))
    assert time.slept == []


def lending_client(lender: Lender, time: VirtualTime) -> Client:
    http = httpx.Client(transport=httpx.MockTransport(lender))
    return Client("http://server", http=http, clock=time, sleep=time.sleep, retry=ONCE)


def drawn(lender: Lender, time: VirtualTime, seconds: float, seen: list[str | None]) -> Iterator[int]:
    """Batches that take so long to make; notes what was held meanwhile."""
    for number in range(4):
        seen.append(lender.held)
        time.now += seconds
        yield number


def test_a_slow_loader_is_waited_for_without_the_device(time: VirtualTime) -> None:
    lender, meanwhile = Lender(), list[str | None]()
    batches = drawn(lender, time, 0.5, meanwhile)
    held = [(batch, lender.held) for batch in leased(batches, lending_client(lender, time), "me", clock=time)]
    assert held == [(0, "lease-1"), (1, "lease-2"), (2, "lease-3"), (3, "lease-4")]
    assert meanwhile == [None] * 4
    assert lender.held is None
    assert [body for _, body in lender.returned] == [{}] * 4


def test_batches_at_hand_cost_one_call_each(time: VirtualTime) -> None:
    lender, meanwhile = Lender(), list[str | None]()
    batches = drawn(lender, time, 0.0, meanwhile)
    held = [(batch, lender.held) for batch in leased(batches, lending_client(lender, time), "me", clock=time)]
    assert held == [(0, "lease-1"), (1, "lease-2"), (2, "lease-3"), (3, "lease-4")]
    assert meanwhile == [None, "lease-1", "lease-2", "lease-3"]
    assert (len(lender.asked), len(lender.returned)) == (1, 4)
    assert lender.held is None


def test_no_batches_need_no_device(time: VirtualTime) -> None:
    lender = Lender()
    assert list(leased([], lending_client(lender, time), "me")) == []
    assert lender.asked == []


def test_a_loop_that_is_left_gives_the_device_back(time: VirtualTime) -> None:
    lender = Lender()
    for batch in leased(range(10), lending_client(lender, time), "me", clock=time):
        if batch == 3:
            break
    assert lender.held is None
    assert len(lender.returned) == 4
