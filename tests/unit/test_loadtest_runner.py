"""The two loops on virtual time: the clock is the event loop's, and the test owns it."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from batchd_client.loadtest.load import ClosedLoad, OpenLoad
from batchd_client.loadtest.measurement import measure_open_loop
from batchd_client.loadtest.payload import Payload, PlannedRequest
from batchd_client.loadtest.report import LoadReport, report_of
from batchd_client.loadtest.runner import closed_loop, open_loop
from batchd_client.loadtest.sample import Exchange

T = TypeVar("T")
PAYLOAD = Payload(path="/x", body=b"", size=1)


class VirtualSelector(selectors.SelectSelector):
    """Waits for nothing: the time that it should have waited has passed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "every task waits for another: the run hangs"
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.selector = VirtualSelector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now


def virtually(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


class Server:
    """Answers after `service_s(now)`, over `connections` at a time."""

    def __init__(self, service_s: Callable[[float], float], connections: int = 10_000, outcome: str = "200") -> None:
        self.service_s = service_s
        self.connections = asyncio.Semaphore(connections)
        self.outcome = outcome
        self.seen = 0

    async def send(self, payload: Payload) -> Exchange:
        del payload
        loop = asyncio.get_running_loop()
        waited = self.connections.locked()
        async with self.connections:
            sent = loop.time()
            self.seen += 1
            await asyncio.sleep(self.service_s(sent))
            return Exchange(
                sent=sent,
                done=loop.time(),
                outcome=self.outcome,
                ok=self.outcome == "200",
                answered=True,
                waited_for_connection=waited,
            )


def every(gap_s: float, count: int) -> list[PlannedRequest]:
    return [PlannedRequest(at=index * gap_s, payload=PAYLOAD) for index in range(count)]


def open_report(server: Server, plan: list[PlannedRequest], span_s: float, **more: Any) -> LoadReport:
    recording = virtually(open_loop(server.send, plan, span_s=span_s, **more))
    return report_of(recording, mode="open", slo_s=0.1)


def stalls_at_one(now: float) -> float:
    return 2.0 if 1.0 <= now < 1.01 else 0.001


def test_an_open_loop_sends_on_time_however_slow_the_answers_are() -> None:
    report = open_report(Server(lambda _: 5.0), every(0.01, 100), 1.0)
    assert report.lag is not None
    assert report.lag.max == pytest.approx(0.0, abs=1e-6)
    assert report.max_in_flight == 100
    assert report.sent_rate == pytest.approx(100.0, rel=0.02)
    assert report.wall_s == pytest.approx(5.99)
    assert report.completed_rate == pytest.approx(100 / 5.99)


def test_a_stall_shows_in_the_response_time_though_the_service_time_hides_it() -> None:
    report = open_report(Server(stalls_at_one, connections=1), every(0.01, 400), 4.0)
    assert report.service is not None
    assert report.response is not None
    assert report.service.p95 < 0.01
    assert report.response.p95 > 1.5
    assert report.connection_waits > 100
    assert any("connection" in warning for warning in report.warnings)


def test_a_closed_loop_sees_a_stall_only_once_per_user() -> None:
    recording = virtually(closed_loop(Server(stalls_at_one).send, [PAYLOAD], ClosedLoad(concurrency=1, duration_s=4.0)))
    slow = [sample for sample in recording.samples if sample.response_s > 0.1]
    assert len(slow) == 1
    assert len(recording.samples) > 1000


def test_a_closed_loop_is_limited_by_the_latency() -> None:
    load = ClosedLoad(concurrency=4, duration_s=10.0)
    report = report_of(virtually(closed_loop(Server(lambda _: 0.1).send, [PAYLOAD], load)), mode="closed", slo_s=None)
    assert report.completed_rate == pytest.approx(40.0, rel=0.02)
    assert report.warnings == () or "too few" in report.warnings[0]


def test_a_closed_loop_ends_after_its_count() -> None:
    load = ClosedLoad(concurrency=8, count=50)
    recording = virtually(closed_loop(Server(lambda _: 0.1).send, [PAYLOAD], load))
    assert len(recording.samples) == recording.offered == 50


def test_the_warm_up_is_sent_but_not_measured() -> None:
    server = Server(lambda _: 0.001)
    load = OpenLoad(rate=100.0, duration_s=2.0, warmup_s=1.0, seed=4)
    recording = virtually(measure_open_loop(server.send, [PAYLOAD], load))
    assert server.seen > len(recording.samples) == recording.offered
    assert all(sample.scheduled >= 1.0 for sample in recording.samples)
    assert recording.wall_s == pytest.approx(2.0, abs=0.01)


def test_an_observer_sees_every_sample_warm_up_included() -> None:
    server, seen = Server(lambda _: 0.001), []
    load = OpenLoad(rate=50.0, count=20, warmup_s=1.0)
    virtually(measure_open_loop(server.send, [PAYLOAD], load, observer=seen.append))
    assert len(seen) == server.seen > 20


def test_a_hopeless_run_is_broken_off_without_waiting_for_what_is_under_way() -> None:
    late = 0

    def stop(_: object) -> bool:
        nonlocal late
        late += 1
        return late >= 5

    server = Server(lambda now: 0.5 if now < 0.05 else 1000.0)
    report = open_report(server, every(0.01, 10_000), 100.0, stop=stop)
    assert report.stopped_early
    assert len(report.samples) == 5
    assert report.wall_s < 1.0


def test_refusals_are_counted_by_status_and_code_and_are_no_goodput() -> None:
    report = open_report(Server(lambda _: 0.001, outcome="429 queue_full"), every(0.01, 100), 1.0)
    assert report.outcomes == {"429 queue_full": 100}
    assert report.goodput == report.completed_rate == 0.0
    assert report.failed_fraction == 1.0
    assert report.response is None
    assert report.commonest_failure == "429 queue_full (100 times)"


def test_a_late_answer_is_throughput_but_no_goodput() -> None:
    plan = [*every(0.01, 50), PlannedRequest(at=0.6, payload=PAYLOAD, deadline_s=1.0)]
    report = open_report(Server(lambda _: 0.2), plan, 1.0)  # the SLO is 0.1 s; the last has a deadline of its own
    assert report.succeeded == 51
    assert report.good == 1


def test_a_bug_in_the_sender_is_not_swallowed() -> None:
    async def broken(payload: Payload) -> Exchange:
        raise RuntimeError("bug")

    with pytest.raises(ExceptionGroup):
        virtually(open_loop(broken, every(0.01, 3), span_s=0.03))
