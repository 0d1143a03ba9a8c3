"""A front on a real socket, with its limits on connections, and clients that speak to it byte by byte."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import httptools
import numpy as np
import uvicorn
from front_rig import InlineDispatcher, settings_for
from starlette.types import ASGIApp

from batchd_server.front.app import create_app
from batchd_server.front.connection_watch import ConnectionWatch
from batchd_server.front.connections import protocol_class

PATIENCE_S = 20.0
SCALE = "/v2/models/scale/infer"
DOUBLED = [2.0, 4.0]
"""The answer of `scale` to 1 and 2."""


@dataclass(frozen=True)
class Watching:
    """A front that serves, and what it counts."""

    address: tuple[str, int]
    watch: ConnectionWatch
    dispatcher: InlineDispatcher
    server: _Server

    def connect(self) -> Peer:
        return Peer(self.address)

    def release(self) -> None:
        """Answer what the dispatcher has held."""
        assert self.dispatcher.held is not None
        self.server.loop.call_soon_threadsafe(self.dispatcher.held.set)


class _Server(uvicorn.Server):
    """Remembers the loop that it runs in."""

    loop: asyncio.AbstractEventLoop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)


@contextmanager
def watched(
    dispatcher: InlineDispatcher | None = None, *, app: ASGIApp | None = None, **server: float
) -> Iterator[Watching]:
    """Serve the rig's models, or an `app`, under the limits `server` while the context is open."""
    dispatcher = dispatcher or InlineDispatcher()
    settings = settings_for(dispatcher, **server)
    watch = ConnectionWatch(settings.server)
    served = app or create_app(settings, dispatcher, watch=watch)
    config = uvicorn.Config(served, host="127.0.0.1", port=0, http=protocol_class(watch), log_config=None)
    listener = config.bind_socket()
    listener.listen(1024)
    server_of_uvicorn = _Server(config)
    thread = threading.Thread(target=server_of_uvicorn.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield Watching(listener.getsockname(), watch, dispatcher, server_of_uvicorn)
    finally:
        server_of_uvicorn.should_exit = True
        thread.join(timeout=30)
        listener.close()
        assert not thread.is_alive()


@dataclass
class Answer:
    """One answer, as it was parsed."""

    status: int = 0
    headers: Mapping[str, str] | None = None
    body: bytes = b""


class Peer:
    """One raw connection."""

    def __init__(self, address: tuple[str, int], receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(address)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def rest(self) -> bytes:
        """Everything until the server closes."""
        parts = []
        while part := self.socket.recv(2**16):
            parts.append(part)
        return b"".join(parts)

    def answers(self, count: int = 1) -> list[Answer]:
        """The next answers on the connection; fewer where the server closes it before."""
        done: list[Answer] = []
        while len(done) < count:
            reading = _Reading()
            parser = httptools.HttpResponseParser(reading)
            while not reading.complete:
                # not a byte of the next answer
                data = self.socket.recv(max(1, reading.missing))
                if not data:
                    return done
                parser.feed_data(data)
            headers = {name.decode().lower(): value.decode() for name, value in reading.headers}
            done.append(Answer(parser.get_status_code(), headers, reading.body))
        return done

    def is_closed(self) -> bool:
        """Whether the server ends the connection, in order or with a reset, and sends nothing more."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True


class _Reading:
    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.missing = 0  # bytes of the body, where its length is known
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.missing = int(dict(self.headers).get(b"content-length", b"0"))

    def on_body(self, body: bytes) -> None:
        self.body += body
        self.missing -= len(body)

    def on_message_complete(self) -> None:
        self.complete = True


def scale_body(*values: float) -> bytes:
    """A request to the rig's model that doubles."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, len(values)], "data": list(values)}
    return json.dumps({"inputs": [tensor]}).encode()


def doubled(body: bytes) -> list[float]:
    """What that model answered."""
    values: list[float] = json.loads(body)["outputs"][0]["data"]
    return values


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A whole request."""
    lines = [f"POST {path} HTTP/1.1", "Host: front", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def get(path: str, *headers: str) -> bytes:
    """A whole request without a body."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: front", *headers, "", ""]).encode()


def chunked(*parts: bytes) -> bytes:
    """A body in the chunked transfer coding."""
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (*parts, b""))


def echo(num_floats: int) -> tuple[bytes, bytes]:
    """A binary request that is answered with as many bytes, and these bytes."""
    data = np.arange(num_floats, dtype=np.float32).tobytes()
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, num_floats], "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return post("/v2/models/identity-fp32/infer", head + data, f"Inference-Header-Content-Length: {len(head)}"), data


def until(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait for what happens in another thread or process."""
    give_up = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < give_up, f"not within {patience_s:g} s: {what}"
        time.sleep(0.01)
