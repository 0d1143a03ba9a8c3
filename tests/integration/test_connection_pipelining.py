"""Several requests on one connection: their order, what is refused among them, and clients that leave them behind."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator

import pytest
from connection_rig import DOUBLED, SCALE, doubled, get, post, scale_body, until, watched
from fastapi import FastAPI
from front_rig import InlineDispatcher
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from batchd_server.front.connections import MAX_PIPELINED
from batchd_server.front.raw_route import raw_router

ASKED = post(SCALE, scale_body(1, 2))
NONSENSE = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "no HTTP": b"nonsense\r\n\r\n",
    "no path": b"GET http://front HTTP/1.1\r\nHost: front\r\n\r\n",
    "a tunnel": b"CONNECT front:80 HTTP/1.1\r\nHost: front\r\n\r\n",
    "no port": b"GET http://front:99999/ HTTP/1.1\r\nHost: front\r\n\r\n",
}
nonsense = pytest.mark.parametrize("line", NONSENSE.values(), ids=NONSENSE)


def test_pipelined_requests_are_answered_in_their_order() -> None:
    with watched() as front, front.connect() as peer:
        peer.send(b"".join(post(SCALE, scale_body(n)) for n in range(MAX_PIPELINED)))
        assert [doubled(answer.body) for answer in peer.answers(MAX_PIPELINED)] == [
            [2 * n] for n in range(MAX_PIPELINED)
        ]


def test_of_too_many_pipelined_requests_those_that_were_taken_are_answered() -> None:
    with watched(InlineDispatcher(held=asyncio.Event())) as front, front.connect() as peer:
        peer.send(b"".join(post(SCALE, scale_body(n)) for n in range(MAX_PIPELINED + 10)))
        until(lambda: front.watch.ended["pipelined"] == 1, "it is noticed")
        front.release()
        answers = peer.answers(MAX_PIPELINED + 10)
        assert [doubled(answer.body) for answer in answers] == [[2 * n] for n in range(MAX_PIPELINED + 1)]


def test_bodies_that_come_ahead_take_no_more_than_their_share() -> None:
    room, count = 100_000, 10
    requests = [post(SCALE, scale_body(n).ljust(30_000)) for n in range(count)]
    with watched(InlineDispatcher(held=asyncio.Event()), max_incoming_bytes=room) as front:
        incoming = front.watch.incoming
        with front.connect() as peer:
            peer.send(requests[0])
            assert front.dispatcher.seen.wait(10)
            before = incoming.held
            for request in requests[1:3]:
                peer.send(request)
            until(lambda: incoming.held == before + 60_000, "they are counted")
            for request in requests[3:]:
                peer.send(request)
            until(lambda: front.watch.ended["pipelined"] == 1, "there is no room for all")
            assert before + 60_000 <= incoming.held <= room
            front.release()
            answers = peer.answers(count)
            assert 3 <= len(answers) < count
            assert [doubled(answer.body) for answer in answers] == [[2 * n] for n in range(len(answers))]
        until(lambda: incoming.held == 0 and not front.watch.num_open, "it is all given back")


def test_bodies_that_come_ahead_are_forgotten_with_their_client() -> None:
    with watched(InlineDispatcher(held=asyncio.Event())) as front:
        with front.connect() as peer:
            peer.send(ASKED + post(SCALE, scale_body(1, 2).ljust(50_000)))
            until(lambda: front.watch.incoming.held >= 50_000, "it is counted")
        until(lambda: front.watch.incoming.held == 0, "it is given back")


@nonsense
def test_nonsense_is_refused(line: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with watched() as front:
        for asked in (0, 1):
            with front.connect() as peer:
                peer.send(ASKED * asked)
                assert len(peer.answers(asked)) == asked
                peer.send(line)
                (answer,) = peer.answers()
                assert (answer.status, json.loads(answer.body)["code"]) == (400, "bad_request")
                assert peer.is_closed()
        assert front.watch.ended == {"malformed": 2}
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@nonsense
@pytest.mark.parametrize("queued", [0, 1])
def test_nonsense_behind_requests_does_not_answer_in_their_place(line: bytes, queued: int) -> None:
    with watched(InlineDispatcher(held=asyncio.Event())) as front, front.connect() as peer:
        peer.send(ASKED * (1 + queued) + line)
        until(lambda: front.watch.ended["malformed"] == 1, "it is noticed")
        front.release()
        answers = peer.answers(3)
        assert [(answer.status, doubled(answer.body)) for answer in answers] == [(200, DOUBLED)] * (1 + queued)


@pytest.mark.parametrize("queued", [b"", ASKED, post(SCALE, bytes(200_000))[:150_000]], ids=["none", "one", "half"])
@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_leaves_is_noticed(reset: bool, queued: bytes) -> None:
    with watched(InlineDispatcher(held=asyncio.Event())) as front, front.connect() as peer:
        peer.send(ASKED)
        assert front.dispatcher.seen.wait(10)
        peer.send(queued)
        until(lambda: front.watch.incoming.held >= min(len(queued) // 2, 2**16), "what it sent ahead is here")
        if reset:
            peer.reset()
        else:
            peer.socket.close()
        assert front.dispatcher.abandoned.wait(10)
        until(lambda: front.watch.num_open == 0 and not front.watch.requests, "it is forgotten")
        assert len(front.dispatcher.requests) == 1  # what it had queued never began


def test_the_answer_to_head_ends_where_a_stream_would_go_on() -> None:
    """And the next request on the connection is answered."""

    async def events() -> AsyncIterator[bytes]:
        yield b"data: news\n\n"
        await asyncio.Event().wait()

    async def endless(request: Request) -> Response:
        return StreamingResponse(events(), media_type="text/event-stream")

    async def short(request: Request) -> Response:
        return Response(b"short", media_type="text/plain")

    router = raw_router("Test")
    router.add_api_route("/endless", endless, methods=["GET"])
    router.add_api_route("/short", short, methods=["GET"])
    app = FastAPI()
    app.router.routes.extend(router.routes)
    with watched(app=app) as front, front.connect() as peer:
        peer.send(get("/endless").replace(b"GET", b"HEAD") + get("/short").replace(b"GET", b"HEAD"))
        peer.send(get("/short", "Connection: close"))
        streamed, whole, last = peer.rest().split(b"HTTP/1.1 200 OK\r\n")[1:]
        assert b"content-type: text/event-stream" in streamed
        assert b"content-length: 5\r\n" in whole
        assert [answer.partition(b"\r\n\r\n")[2] for answer in (streamed, whole, last)] == [b"", b"", b"short"]
        until(lambda: not front.watch.requests, "the stream ends")
