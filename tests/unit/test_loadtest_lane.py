"""The load tester's own HTTP: in whatever pieces an answer comes, it is the same one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd_client.loadtest.answer_parser import AnswerParser, BrokenAnswer, WireAnswer
from batchd_client.loadtest.lane import ConnectFailed, Lane, LaneError

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 429 Too Many\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nT: u\r\n\r\n"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
ANNOUNCED = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + LENGTH
OLD = b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"
LAST = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"
UNTIL_THE_END = b"HTTP/1.1 200 OK\r\n\r\nhello"
WHOLE = {LENGTH: (200, b"hello", True), CHUNKED: (429, b"hello", True), EMPTY: (204, b"", True)} | {
    ANNOUNCED: (200, b"hello", True),
    OLD: (200, b"hello", False),
    LAST: (200, b"hello", False),
}
BROKEN = [
    b"SSH-2.0-x\r\n\r\n",
    b"HTTP/1.1 2x0 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
    LENGTH + b"more",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 5000,
    b"H" * 70_000,
]


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(edges)]


def seen(answer: WireAnswer | None) -> tuple[int, bytes, bool]:
    assert answer is not None
    return answer.status, answer.body, answer.reusable


@given(st.sampled_from(sorted(WHOLE)), st.lists(st.integers(0, 200)))
def test_an_answer_is_the_same_whatever_pieces_it_comes_in(data: bytes, cuts: list[int]) -> None:
    parser = AnswerParser()
    for _ in range(2):  # the second on the same connection
        *others, last = [parser.feed(piece) for piece in in_pieces(data, cuts)]
        assert others == [None] * len(others)
        assert seen(last) == WHOLE[data]
    assert parser.end() is None


@given(st.sampled_from([*sorted(WHOLE), UNTIL_THE_END]), st.integers(1, 200))
def test_an_answer_that_is_cut_off_is_none(data: bytes, cut: int) -> None:
    cut = min(cut, len(data) - 1)
    parser = AnswerParser()
    assert parser.feed(data[:cut]) is None
    if data == UNTIL_THE_END and b"\r\n\r\n" in data[:cut]:  # which nobody can tell
        assert seen(parser.end()) == (200, data[:cut].partition(b"\r\n\r\n")[2], False)
    else:
        with pytest.raises(BrokenAnswer):
            parser.end()


@pytest.mark.parametrize("data", BROKEN)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    with pytest.raises(BrokenAnswer):
        AnswerParser().feed(data)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300)))
def test_any_bytes_are_an_answer_or_broken(data: bytes, cuts: list[int]) -> None:
    parser = AnswerParser()
    try:
        for piece in in_pieces(b"HTTP/1.1 200 " + data, cuts):
            answer = parser.feed(piece)
            assert answer is None or answer.status == 200
    except BrokenAnswer:
        return


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def against(serve: Serve, use: Callable[[Lane], Awaitable[None]]) -> None:
    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            lane = Lane("127.0.0.1", server.sockets[0].getsockname()[1], None)
            await use(lane)
            lane.close()

    asyncio.run(run())


def answering(*answers: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            if not await reader.read(100):
                break
            writer.write(answer)
        writer.close()

    return serve


def test_a_lane_takes_one_request_after_the_other() -> None:
    async def use(lane: Lane) -> None:
        assert seen(await lane.post(b"one")) == WHOLE[LENGTH]
        assert lane.usable
        assert seen(await lane.post(b"two")) == WHOLE[CHUNKED]

    against(answering(LENGTH, CHUNKED), use)


@pytest.mark.parametrize("answer", [LAST, OLD])
def test_a_lane_that_the_server_closes_is_used_no_more(answer: bytes) -> None:
    async def use(lane: Lane) -> None:
        assert (await lane.post(b"one")).body == b"hello"
        assert not lane.usable

    against(answering(answer), use)


def test_an_answer_may_end_with_its_connection() -> None:
    async def use(lane: Lane) -> None:
        assert seen(await lane.post(b"one")) == (200, b"hello", False)

    against(answering(UNTIL_THE_END), use)


@pytest.mark.parametrize("answer", [b"", LENGTH[:-1], b"rubbish\r\n\r\n"])
def test_what_breaks_off_is_an_error_and_ends_the_lane(answer: bytes) -> None:
    async def use(lane: Lane) -> None:
        with pytest.raises(LaneError):
            await lane.post(b"one")
        assert not lane.usable

    against(answering(answer), use)


def test_where_nobody_listens_there_is_no_connection() -> None:
    async def run() -> None:
        server = await asyncio.start_server(answering(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        with pytest.raises(ConnectFailed):
            await Lane("127.0.0.1", port, None).post(b"one")

    asyncio.run(run())
