"""The end of one front's server over real sockets: who is answered, who is accepted, and when a connection closes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest
import uvicorn

from batchd_server.front.draining import Draining, Server
from batchd_server.supervisor.stopping import LAST_ANSWERS_S

PATIENCE_S = 30.0
pytestmark = pytest.mark.asyncio
GET = b"GET %s HTTP/1.1\r\nhost: test\r\n\r\n"


class Said:
    """Implements `Closing`, and the application: `/slow` waits for `release`, `/deaf` for nobody.

    Who comes after `begin_drain` is refused.
    """

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.begun = 0
        self.release = asyncio.Event()

    def leave(self) -> None:
        self.heard.append("leave")

    def retire(self) -> None:
        self.heard.append("retire")

    def begin_drain(self) -> None:
        self.heard.append("begin_drain")

    def abandon(self) -> None:
        self.heard.append("abandon")
        self.release.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        status = 503 if "begin_drain" in self.heard else 200
        self.begun += 1
        try:
            if scope["path"] == "/slow":
                await self.release.wait()
                status = 503 if "abandon" in self.heard else status
            elif scope["path"] == "/deaf":
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            status = 503
        headers = [(b"content-length", b"0")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body"})


class Rig:
    """A server whose listening socket has another holder, as a successor would be."""

    def __init__(self, drain_timeout_s: float) -> None:
        self.said = Said()
        self.shared = socket.create_server(("127.0.0.1", 0))
        self.shared.setblocking(False)
        self.server = Server(
            uvicorn.Config(
                self.said,
                http="httptools",
                lifespan="off",
                log_config=None,
                timeout_graceful_shutdown=1,
                timeout_keep_alive=int(PATIENCE_S),  # nobody is closed for being idle
            )
        )
        self.draining = Draining(self.server, self.said, drain_timeout_s)

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 - the server has no event for it
                await asyncio.sleep(0.01)

    async def connect(self) -> Client:
        return Client(*await asyncio.open_connection(*self.shared.getsockname()))

    async def waiting_client(self) -> Client:
        """Return one whose request has been taken and is not answered before `release`."""
        client = await self.connect()
        client.ask(b"/slow")
        await self.until(lambda: self.said.begun == 1)
        return client


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def ask(self, path: bytes = b"/") -> None:
        self.writer.write(GET % path)

    async def answer(self) -> tuple[int, bool]:
        """Return the status, and whether the connection is to close."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
        return int(head.split()[1]), b"\r\nconnection: close\r\n" in head

    async def closes(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            assert await self.reader.read() == b""
        self.writer.close()


@asynccontextmanager
async def served(drain_timeout_s: float = PATIENCE_S) -> AsyncIterator[Rig]:
    """Serve while the context is open; it is left once the server has come to its end by itself."""
    rig = Rig(drain_timeout_s)
    with closing(rig.shared):
        running = asyncio.create_task(rig.server.serve(sockets=[rig.shared.dup()]))
        await rig.until(lambda: rig.server.started)
        try:
            yield rig
            async with asyncio.timeout(PATIENCE_S):
                await running
        finally:
            running.cancel()


async def test_a_retiring_front_keeps_an_idle_connection_for_one_more_request() -> None:
    async with served() as rig:
        client = await rig.connect()
        client.ask()
        assert await client.answer() == (200, False)
        rig.draining.retire()
        await rig.until(lambda: rig.said.heard == ["retire"])
        with pytest.raises(TimeoutError):  # it is not closed under the client's hands
            await asyncio.wait_for(client.reader.read(), 0.3)
        client.ask()
        assert await client.answer() == (200, True)
        await client.closes()


async def test_a_retiring_front_leaves_new_connections_to_the_others() -> None:
    async with served() as rig:
        waiting = await rig.waiting_client()
        rig.draining.retire()
        await rig.until(lambda: rig.said.heard)
        late = await rig.connect()
        accepted, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(rig.shared), PATIENCE_S)
        accepted.close()
        late.writer.close()
        rig.said.release.set()
        assert await waiting.answer() == (200, True)
        await waiting.closes()


async def test_a_draining_front_accepts_until_what_was_admitted_is_done() -> None:
    async with served() as rig:
        admitted = await rig.waiting_client()
        rig.draining.stop()
        await rig.until(lambda: rig.said.heard)
        for _ in range(3):
            late = await rig.connect()
            late.ask()
            assert await late.answer() == (503, True)
            await late.closes()
        assert rig.said.heard == ["begin_drain"]
        rig.said.release.set()
        assert await admitted.answer() == (200, True)
        await admitted.closes()


async def test_what_was_sent_before_the_stop_is_admitted_though_nobody_had_read_it() -> None:
    async with served() as rig:
        known = await rig.connect()
        known.ask()
        assert await known.answer() == (200, False)
        # from here to the stop the server does not run
        known.ask()
        new = socket.create_connection(rig.shared.getsockname())
        new.sendall(GET % b"/")
        rig.draining.stop()
        for client in (known, Client(*await asyncio.open_connection(sock=new))):
            assert await client.answer() == (200, True)
            await client.closes()


async def test_what_takes_too_long_is_answered_before_the_end() -> None:
    async with served(drain_timeout_s=0.1) as rig:
        slow, deaf = await rig.connect(), await rig.connect()
        slow.ask(b"/slow")
        deaf.ask(b"/deaf")
        await rig.until(lambda: rig.said.begun == 2)
        begun = asyncio.get_running_loop().time()
        rig.draining.stop()
        assert await slow.answer() == (503, True)
        assert await deaf.answer() == (503, True)
        assert asyncio.get_running_loop().time() - begun >= LAST_ANSWERS_S
        assert rig.said.heard == ["begin_drain", "abandon"]
        for client in (slow, deaf):
            await client.closes()


async def test_a_stop_overtakes_a_retirement() -> None:
    async with served() as rig:
        idle, waiting = await rig.connect(), await rig.connect()
        waiting.ask(b"/slow")
        await rig.until(lambda: rig.said.begun == 1)
        rig.draining.retire()
        await rig.until(lambda: rig.said.heard == ["retire"])
        rig.draining.stop()
        await rig.until(lambda: rig.said.heard == ["retire", "begin_drain"])
        rig.said.release.set()
        assert await waiting.answer() == (200, True)
        await waiting.closes()
        await idle.closes()
