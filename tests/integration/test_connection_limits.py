"""Limits on connections, at the limit and one beyond it, over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import repeat

import pytest
from connection_rig import (
    DOUBLED,
    PATIENCE_S,
    SCALE,
    Peer,
    chunked,
    doubled,
    echo,
    get,
    post,
    scale_body,
    until,
    watched,
)
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

SMALL = {"max_header_bytes": 2048}
OPEN_END = b"POST " + SCALE.encode() + b" HTTP/1.1\r\nHost: front\r\n"


def test_a_head_of_the_limit_is_served_and_one_byte_more_is_not() -> None:
    fixed = len("/v2/health/live") + len("Host") + len("front") + len("X-Fill") + 2 * 4
    with watched(**SMALL) as front:
        for size, status in ((2048, 200), (2049, 431)):
            with front.connect() as peer:
                peer.send(get("/v2/health/live", f"X-Fill: {'x' * (size - fixed)}"))
                assert peer.answers()[0].status == status
        assert front.watch.ended == {"header_bytes": 1}


@pytest.mark.parametrize(
    ("path", "media_type", "field"),
    [
        ("/v2/models/scale", "application/json", "error"),
        ("/v1/embeddings", "application/json", "error"),
        ("/v1/status", "application/problem+json", "detail"),
    ],
)
def test_a_head_too_large_is_told_in_the_form_of_its_path(path: str, media_type: str, field: str) -> None:
    with watched(**SMALL) as front, front.connect() as peer:
        peer.send(get(path, f"X-Fill: {'x' * 2048}"))
        (answer,) = peer.answers()
        assert answer.status == 431
        assert answer.headers is not None
        assert answer.headers["content-type"] == media_type
        assert answer.headers["connection"] == "close"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-request-id"]
        assert "2048 bytes" in str(json.loads(answer.body)[field])
        assert peer.is_closed()


@pytest.mark.parametrize(
    "endless",
    [
        b"GET /" + b"x" * 10**6,
        b"GET / HTTP/1.1\r\nX-Endless: " + b"x" * 10**6,
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 10**5,
        b"\r\n" * 10**6,
        OPEN_END + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n" + b"X-Trailer: y\r\n" * 10**5,
        OPEN_END + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"extension" * 10**5,
    ],
    ids=["url", "field", "fields", "line ends", "trailers", "chunk extension"],
)
def test_nothing_beside_a_body_is_taken_without_end(endless: bytes) -> None:
    with watched(**SMALL) as front, front.connect() as peer:
        peer.send(endless)
        assert peer.answers()[0].status in (400, 431)  # llhttp knows some of them
        peer.socket.close()
        until(lambda: front.watch.num_open == 0, "the connection is forgotten")


def test_trailers_do_not_become_headers() -> None:
    body = scale_body(1, 2)
    late = b"%x\r\n%s\r\n0\r\nX-Request-Timeout-Ms: nonsense\r\n\r\n" % (len(body), body)
    with watched() as front, front.connect() as peer:
        peer.send(OPEN_END + b"Transfer-Encoding: chunked\r\n\r\n" + late)
        (answer,) = peer.answers()
        assert (answer.status, doubled(answer.body)) == (200, DOUBLED)


@pytest.mark.parametrize("sent", [b"", b"GET /v2 HT", b"POST /v2/models/scale/infer HTTP/1.1\r\nHost: fr", b"\r\n\r\n"])
def test_a_head_that_does_not_come_is_timed_out(sent: bytes) -> None:
    with watched(header_timeout_s=0.3) as front, front.connect() as peer:
        peer.send(sent)
        (answer,) = peer.answers()
        assert answer.status == 408
        assert b"request_timeout" in answer.body
        assert peer.is_closed()
        assert front.watch.ended == {"header_timeout": 1}


def test_the_wait_for_the_next_request_ends_in_silence() -> None:
    with watched(header_timeout_s=1.5) as front, front.connect() as peer:
        peer.send(get("/v2/health/live"))
        assert peer.answers()[0].status == 200
        assert peer.is_closed()  # uvicorn's keep-alive
        assert not front.watch.ended


def test_a_body_that_trickles_is_timed_out_in_the_protocols_form(caplog: pytest.LogCaptureFixture) -> None:
    with watched(body_timeout_s=0.4, min_body_rate=1000) as front, front.connect() as peer:
        caplog.set_level(logging.DEBUG, "batchd_server.front.connections")
        peer.send(post(SCALE, scale_body(1, 2), "X-Request-Id: mine")[:-10])
        (answer,) = peer.answers()
        assert answer.status == 408
        assert answer.headers is not None
        document = json.loads(answer.body)
        assert document["code"] == "request_timeout"
        assert document["request_id"] == answer.headers["x-request-id"] == "mine"
        assert [vars(record).get("request_id") for record in caplog.records if "ended" in record.msg] == ["mine"]
        assert peer.is_closed()
        assert front.watch.ended == {"body_timeout": 1}
        assert not front.dispatcher.requests
        until(lambda: not front.watch.requests, "the request is forgotten")


def test_a_body_that_keeps_the_rate_may_take_as_long_as_it_needs() -> None:
    body = scale_body(1, 2) + b" " * 8000
    with watched(body_timeout_s=2, min_body_rate=1000) as front, front.connect() as peer:
        begun = time.monotonic()
        request = post(SCALE, body)
        for start in range(0, len(request), 600):
            peer.send(request[start : start + 600])
            time.sleep(0.2)  # the network, at three times the rate that is asked for
        assert time.monotonic() - begun > 2
        (answer,) = peer.answers()
        assert (answer.status, doubled(answer.body)) == (200, DOUBLED)
        assert not front.watch.ended


def test_a_reader_that_never_reads_is_cut_off_and_its_answers_are_freed() -> None:
    request, _ = echo(3 * 10**6)
    with watched(send_timeout_s=0.5) as front, Peer(front.address, receive_buffer=4096) as peer:
        peer.send(request)
        until(lambda: bool(front.watch.ended), "it is cut off")
        assert front.watch.ended == {"send_timeout": 1}
        until(lambda: front.watch.num_open == 0 and not front.watch.requests, "it is forgotten")


def test_a_slow_reader_gets_the_whole_answer() -> None:
    request, data = echo(10**6)
    with watched(send_timeout_s=1.5) as front, Peer(front.address, receive_buffer=2**16) as peer:
        peer.send(request)
        received = bytearray()
        while len(received) < len(data):
            part = peer.socket.recv(2**14)
            assert part
            received += part
            if len(received) < len(data) / 2:
                time.sleep(0.03)  # the network: half a megabyte per second, while the kernel has three of them
        assert bytes(received[-1000:]) == data[-1000:]
        assert not front.watch.ended


def test_a_reader_that_never_reads_is_computed_no_more_for_than_the_buffers_hold() -> None:
    request, _ = echo(10**6)
    with watched() as front, Peer(front.address, receive_buffer=4096) as peer:
        peer.send(request)
        until(lambda: len(front.dispatcher.requests) == 1, "the first is answered")
        peer.socket.setblocking(False)
        sent = 0
        for _ in repeat(None, 200):
            try:
                sent += peer.socket.send(request)
            except BlockingIOError:
                time.sleep(0.005)
        # the answers that the kernel takes, the one that waits for it, and the one behind that
        assert len(front.dispatcher.requests) <= 5
        assert sent < 20 * len(request)


def test_a_connection_too_many_is_told_and_the_others_go_on() -> None:
    with watched(max_connections=2) as front:
        first, second = front.connect(), front.connect()
        until(lambda: front.watch.num_open == 2, "two connections")
        with front.connect() as third:
            (answer,) = third.answers()
            assert answer.status == 503
            assert answer.headers is not None
            assert answer.headers["retry-after"] == "1"
            assert answer.headers["content-type"] == "application/problem+json"
            assert third.is_closed()
        for peer in (first, second):
            peer.send(post(SCALE, scale_body(1, 2)))
            assert doubled(peer.answers()[0].body) == DOUBLED
        first.socket.close()
        until(lambda: front.watch.num_open == 1, "one has left")
        with front.connect() as third, second:
            third.send(post(SCALE, scale_body(1, 2)))
            assert doubled(third.answers()[0].body) == DOUBLED
        assert front.watch.ended == {"connections": 1}


def test_what_is_left_of_a_refused_body_is_not_taken_for_ever() -> None:
    with watched(max_body_bytes=1000, body_timeout_s=0.5, min_body_rate=1) as front, front.connect() as peer:
        peer.send(OPEN_END + b"Content-Length: 100000000\r\n\r\n")
        assert peer.answers()[0].status == 413
        begun = time.monotonic()
        with suppress(ConnectionResetError, BrokenPipeError):
            while time.monotonic() < begun + PATIENCE_S:
                peer.send(b"x" * 10_000)
                time.sleep(0.01)  # the network
        assert front.watch.ended == {"body_timeout": 1}


BODY_LIMIT = 5000


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("coding", ["length", "one chunk", "chunks of one byte", "gzip", "gzip in chunks"])
def test_a_body_of_the_limit_is_taken_and_one_byte_more_is_not(coding: str, extra: int) -> None:
    body = scale_body(1, 2).ljust(BODY_LIMIT + extra)
    packed = gzip.compress(body) if coding.startswith("gzip") else body
    lines = [b"POST " + SCALE.encode() + b" HTTP/1.1", b"Host: front"]
    if packed is not body:
        lines.append(b"Content-Encoding: gzip")
    if coding in ("length", "gzip"):
        lines.append(b"Content-Length: %d" % len(packed))
        sent = packed
    else:
        lines.append(b"Transfer-Encoding: chunked")
        sent = chunked(packed) if "one byte" not in coding else chunked(*(bytes([byte]) for byte in packed))
    with watched(max_body_bytes=BODY_LIMIT) as front, front.connect() as peer:
        peer.send(b"\r\n".join([*lines, b"", b""]) + sent)
        (answer,) = peer.answers()
        if extra:
            assert answer.status == 413
        else:
            assert (answer.status, doubled(answer.body)) == (200, DOUBLED)


def test_slow_bodies_together_take_no_more_than_their_share() -> None:
    half = post(SCALE, scale_body(1, 2).ljust(100_000))
    with watched(max_incoming_bytes=150_000, max_body_bytes=100_000) as front:
        with front.connect() as slow, front.connect() as other:
            slow.send(half[:-1])
            until(lambda: front.watch.incoming.held == 99_999, "all but one byte is there")
            other.send(half[:-1])
            (answer,) = other.answers()
            assert (answer.status, json.loads(answer.body)["code"]) == (503, "too_much_incoming")
            slow.send(half[-1:])
            assert doubled(slow.answers()[0].body) == DOUBLED
        with front.connect() as later:
            later.send(half)
            assert doubled(later.answers()[0].body) == DOUBLED


@pytest.mark.parametrize("extra", [0, 1])
def test_items_of_the_limit_are_taken_and_one_more_is_not(extra: int) -> None:
    items = 3 + extra
    tensor = {"name": "x", "datatype": "FP32", "shape": [items, 1], "data": [1.0] * items}
    with watched(max_items_per_request=3) as front, front.connect() as peer:
        peer.send(post(SCALE, json.dumps({"inputs": [tensor]}).encode()))
        assert peer.answers()[0].status == (413 if extra else 200)


class Stream:
    """An application that answers with `count` events, `period_s` apart."""

    def __init__(self, count: int, period_s: float, event: bytes) -> None:
        self.count, self.period_s, self.event = count, period_s, event
        self.made = 0
        self.ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                await StreamingResponse(self.events(), media_type="text/event-stream")(scope, receive, send)
            finally:
                self.ended = True

    async def events(self) -> AsyncIterator[bytes]:
        for _ in range(self.count):
            self.made += 1
            yield self.event
            await asyncio.sleep(self.period_s)


def test_a_stream_may_be_slower_than_every_limit() -> None:
    stream = Stream(6, 0.5, b"data: news\n\n")
    limits = {"header_timeout_s": 1.5, "body_timeout_s": 0.3, "send_timeout_s": 0.3}
    with watched(app=stream, **limits) as front, front.connect() as peer:
        peer.send(get("/events", "Connection: close"))
        assert peer.rest().count(b"data: news") == 6
        assert not front.watch.ended


def test_a_stream_that_nobody_reads_is_not_made_and_ends() -> None:
    stream = Stream(10**6, 0.0, bytes(2**16))
    with watched(app=stream, send_timeout_s=0.5) as front, Peer(front.address, receive_buffer=4096) as peer:
        peer.send(get("/events"))
        until(lambda: stream.ended, "it ends")
        assert front.watch.ended == {"send_timeout": 1}
        assert stream.made < 200  # what the kernel takes, and one that waits


def test_an_upgrade_that_is_not_offered_is_ignored() -> None:
    with watched() as front, front.connect() as peer:
        peer.send(get("/v2/health/live", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMA"))
        assert peer.answers()[0].status == 200
