"""Following a job: the parser of server-sent events, and connections that break, through both clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import aclosing
from typing import Any

import httpx
import pytest
from client_rig import Handler, VirtualTime

from batchd_client import AsyncClient, Client, ConnectionFailed, JobEvent, NotFound, ProtocolError, Unavailable
from batchd_client.event_parser import EventParser

JOB = "job-0123456789abcdef"
STREAM = {"content-type": "text/event-stream; charset=utf-8"}


def sent(number: int, kind: str, **data: Any) -> str:
    body = json.dumps({"id": number, "at": 1.5 * number, "kind": kind, "data": data})
    return f"id: {number}\nevent: {kind}\ndata: {body}\n\n"


def event(number: int, kind: str, **data: Any) -> JobEvent:
    return JobEvent(id=number, at=1.5 * number, kind=kind, data=data)


class Cut(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body whose connection breaks behind it."""

    def __init__(self, text: str) -> None:
        self._chunk = text.encode()

    def __iter__(self) -> Iterator[bytes]:
        yield self._chunk
        raise httpx.ReadError("reset by peer")

    async def __aiter__(self) -> Any:
        yield self._chunk
        raise httpx.ReadError("reset by peer")


Follow = Callable[..., list[JobEvent]]


@pytest.fixture(params=["sync", "async"])
def follow(request: pytest.FixtureRequest, time: VirtualTime) -> Follow:
    """Return what collects a job's events from a server that is a function."""

    def collect(handler: Handler, **options: Any) -> list[JobEvent]:
        transport = httpx.MockTransport(handler)
        if request.param == "sync":
            with httpx.Client(transport=transport) as http:
                client = Client("http://server", http=http, clock=time, sleep=time.sleep)
                return list(client.training.events(JOB, **options))

        async def collect_async() -> list[JobEvent]:
            async with httpx.AsyncClient(transport=transport) as http:
                client = AsyncClient("http://server", http=http, clock=time, sleep=time.sleep_async)
                async with aclosing(client.training.events(JOB, **options)) as events:
                    return [event async for event in events]

        return asyncio.run(collect_async())

    return collect


def script(*answers: httpx.Response | Exception, status: str = "running") -> tuple[Handler, list[httpx.Request]]:
    """Answer one connection after the other as told; whoever asks for the job gets its `status`."""
    asked: list[httpx.Request] = []
    left = iter(answers)

    def handler(request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/events"):
            progress = {"step": 1, "examples": 1, "epoch": 0}
            job = {"id": JOB, "status": status, "model": "m", "dataset": "d", "created_at": 1, "progress": progress}
            return httpx.Response(200, json=job)
        asked.append(request)
        answer = next(left)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return handler, asked


def stream(text: str) -> httpx.Response:
    return httpx.Response(200, headers=STREAM, content=text.encode())


def test_events_come_until_the_job_is_over(follow: Follow) -> None:
    handler, asked = script(stream(sent(4, "started") + ": still here\n\n" + sent(9, "succeeded")))
    assert follow(handler, after=3) == [event(4, "started"), event(9, "succeeded")]
    (request,) = asked
    assert request.url.path == f"/v1/training/jobs/{JOB}/events"
    assert request.headers["last-event-id"] == "3"
    assert request.headers["accept"] == "text/event-stream"


def test_after_a_break_it_goes_on_behind_the_last_whole_event(follow: Follow, time: VirtualTime) -> None:
    half = sent(3, "checkpoint", step=20)[:-1]
    handler, asked = script(
        httpx.Response(200, headers=STREAM, stream=Cut(sent(1, "started") + sent(2, "validation", step=10) + half)),
        httpx.ConnectError("refused"),
        httpx.Response(503, headers={"retry-after": "2"}, json={"detail": "starting"}),
        stream(sent(3, "checkpoint", step=20) + sent(4, "failed", reason="NaN", step=21)),
    )
    kinds = [(found.id, found.kind) for found in follow(handler)]
    assert kinds == [(1, "started"), (2, "validation"), (3, "checkpoint"), (4, "failed")]
    assert [request.headers["last-event-id"] for request in asked] == ["0", "2", "2", "2"]
    assert len(time.slept) == 3
    assert time.slept[2] >= 2


def test_a_stream_that_ends_early_is_asked_again_as_often_as_it_brings_events(follow: Follow) -> None:
    handler, asked = script(
        *(stream(sent(number, "validation")) for number in range(1, 9)), stream(sent(9, "cancelled"))
    )
    assert [found.id for found in follow(handler)] == list(range(1, 10))
    assert len(asked) == 9


def test_a_job_that_was_over_before_ends_at_once(follow: Follow) -> None:
    handler, asked = script(stream(""), status="succeeded")
    assert follow(handler, after=9) == []
    assert len(asked) == 1


def test_patience_ends(follow: Follow, time: VirtualTime) -> None:
    def nobody(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(ConnectionFailed, match="refused"):
        follow(nobody, patience_s=30.0)
    assert 20 < time.now <= 30


def test_patience_counts_from_the_first_trouble_not_from_the_last_event(follow: Follow, time: VirtualTime) -> None:
    def slow() -> Iterator[httpx.Response | Exception]:
        time.now += 1000.0  # a long training step
        yield httpx.Response(200, headers=STREAM, stream=Cut(sent(1, "started")))
        time.now += 1000.0
        yield httpx.ConnectError("refused")
        yield stream(sent(2, "succeeded"))

    handler, _ = script(*slow())
    assert [found.id for found in follow(handler, patience_s=5.0)] == [1, 2]


def test_a_server_that_only_hangs_up_ends_patience_too(follow: Follow) -> None:
    answers = (stream("") for _ in range(1000))
    handler, _ = script(*answers)
    with pytest.raises(ConnectionFailed, match="the stream ends"):
        follow(handler, patience_s=60.0)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda: httpx.Response(404, json={"detail": "unknown job"}), NotFound),
        (lambda: httpx.Response(503, headers={"x-should-retry": "false"}, json={}), Unavailable),
        (lambda: httpx.Response(200, json={}), ProtocolError),
        (lambda: httpx.Response(302, headers={"location": "/"}), ProtocolError),
        (lambda: stream("id: 1\nevent: started\ndata: {\n\n"), ProtocolError),
        (lambda: stream("id: one\nevent: started\ndata: {}\n\n"), ProtocolError),
        (lambda: stream("id: 1\nevent: started\ndata: []\n\n"), ProtocolError),
    ],
)
def test_what_waiting_cannot_help_is_raised_at_once(
    follow: Follow, time: VirtualTime, answer: Callable[[], httpx.Response], error: type[Exception]
) -> None:
    handler, asked = script(answer())
    with pytest.raises(error):
        follow(handler)
    assert len(asked) == 1
    assert time.slept == []


def test_the_server_may_say_how_soon_to_come_back(follow: Follow, time: VirtualTime) -> None:
    handler, _ = script(stream("retry: 7000\n" + sent(1, "started")), stream(sent(2, "succeeded")))
    follow(handler)
    assert 7 <= time.slept[0] < 8


def test_an_empty_event_tells_its_id_all_the_same() -> None:
    parser = EventParser("1")
    assert parser.feed(b"id: 5\n\n") == []
    assert parser.last_id == "5"
    assert [(found.id, found.kind, found.data) for found in parser.feed(b"data\n\n")] == [("5", "message", "")]


def test_an_id_with_a_nul_is_none() -> None:
    parser = EventParser("1")
    parser.feed(b"id: 5\0\ndata: x\n\n")
    assert parser.last_id == "1"
