"""Clients that do everything wrong, one fault per call, over raw sockets; and one that does it right and looks.

Each fault returns the statuses that it was answered with. A fault that a limit must end waits for that end.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from connection_rig import chunked, get, post

PATH, LARGE_PATH = "/v2/models/double/infer", "/v2/models/large/infer"
MAX_HEADER_BYTES, MAX_BODY_BYTES, MAX_CONNECTIONS = 8192, 16 * 2**20, 200
LARGE_BYTES, VERY_LARGE_BYTES = 2**20, 12 * 2**20
GIVE_UP_S = 30.0
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")

MODEL = """
import time
from pathlib import Path
import torch
from batchd_server.models.padded import PaddedModel
from batchd_server.models.spec import TensorSpec


class Double(PaddedModel):
    \"\"\"Answers 2x, in `seconds`. While there is a file `closed` it waits, and `closed`.reached tells so.\"\"\"

    inputs = [TensorSpec(name="x", datatype="FP32", shape=("n",))]
    outputs = [TensorSpec(name="y", datatype="FP32", shape=("n",))]

    def __init__(self, seconds=0.002, closed=""):
        self.seconds, self.closed = seconds, closed

    def build(self):
        return torch.nn.Identity()

    def forward(self, batch):
        time.sleep(self.seconds)
        while self.closed and Path(self.closed).exists():
            Path(self.closed + ".reached").touch()
            time.sleep(0.01)
        return {"y": batch["x"] * 2}
"""


def request(rng: random.Random) -> bytes:
    """A small valid request."""
    values = [rng.random() for _ in range(rng.randint(1, 20))]
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, len(values)], "data": values}
    return post(PATH, json.dumps({"inputs": [tensor]}).encode())


def large_request(num_bytes: int) -> bytes:
    """A valid request whose answer is as large as itself."""
    size = num_bytes // 4
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, size], "parameters": {"binary_data_size": 4 * size}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return post(LARGE_PATH, head + bytes(4 * size), f"Inference-Header-Content-Length: {len(head)}")


def _status(begin: bytes) -> int:
    found = _STATUS.match(begin)
    return int(found[1]) if found else 0


@dataclass
class Fault:
    """One connection that something is wrong with."""

    address: tuple[str, int]
    rng: random.Random
    socket: socket.socket = field(default_factory=socket.socket)

    async def __aenter__(self) -> Fault:
        self.socket.setblocking(False)
        await asyncio.get_running_loop().sock_connect(self.socket, self.address)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.rng.random() < 0.5:  # a reset instead of an orderly end
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    async def send(self, data: bytes) -> None:
        """Send; what the server does not want any more is lost."""
        with suppress(ConnectionError):
            await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def read(self, num_bytes: int = 2**16) -> bytes:
        """Read something; nothing where the server has closed."""
        try:
            return await asyncio.get_running_loop().sock_recv(self.socket, num_bytes)
        except ConnectionError:
            return b""

    async def statuses(self, until: int = 10**6) -> list[int]:
        """The statuses of all answers until there are so many, or the server closes."""
        seen = b""
        while len(found := _STATUS.findall(seen)) < until and (data := await self.read()):
            seen += data
        return [int(status) for status in found]

    async def moment(self) -> None:
        """For things to be at another point."""
        await asyncio.sleep(self.rng.random() * 0.005)


async def leaves_anywhere(fault: Fault) -> list[int]:
    """Leaves before, in or after a request, or in its answer."""
    whole = request(fault.rng)
    await fault.send(whole[: fault.rng.randint(0, len(whole))] if fault.rng.random() < 0.7 else whole)
    await fault.moment()
    if fault.rng.random() < 0.3:
        fault.socket.setblocking(False)
        with suppress(BlockingIOError, ConnectionError):
            fault.socket.recv(fault.rng.randint(1, 100))
    return []


async def leaves_an_answer(fault: Fault) -> list[int]:
    """Leaves in the middle of a large answer."""
    await fault.send(large_request(LARGE_BYTES))
    status = _status(await fault.read(1000))
    for _ in range(fault.rng.randint(0, 5) if status == 200 else 0):
        await fault.read(1000)
    return [status]


async def sends_no_more(fault: Fault) -> list[int]:
    """Closes its sending side, and reads on."""
    whole = request(fault.rng)
    await fault.send(whole[: fault.rng.choice([0, 20, len(whole) - 5, len(whole)])])
    with suppress(OSError):
        fault.socket.shutdown(socket.SHUT_WR)
    return await fault.statuses()


async def speaks_nonsense(fault: Fault) -> list[int]:
    """Sends what is not HTTP, or what begins as HTTP."""
    whole = request(fault.rng)
    begin = whole[: fault.rng.choice([0, 0, 10, 40])]
    await fault.send(begin + fault.rng.randbytes(fault.rng.randint(1, 2000)) + b"\r\n\r\n")
    return await fault.statuses(1)


async def changes_bytes(fault: Fault) -> list[int]:
    """Sends a request in which some bytes are others."""
    whole = bytearray(request(fault.rng))
    for _ in range(fault.rng.randint(1, 4)):
        whole[fault.rng.randrange(len(whole))] = fault.rng.randrange(256)
    await fault.send(bytes(whole) + b"\r\n\r\n")
    await fault.moment()
    return []


async def breaks_chunks(fault: Fault) -> list[int]:
    """Lies in the chunked transfer coding."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: front\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    body = chunked(*(fault.rng.randbytes(fault.rng.randint(1, 50)) for _ in range(5)))
    wrong = [b"zz\r\n", b"ffffffffffffffffff\r\n", b"-1\r\n", body[:-9] + b"\r\n\r\n", body.replace(b"\r\n", b"\n")]
    await fault.send(head + fault.rng.choice(wrong))
    await fault.moment()
    return []


async def sends_too_much_of_a_head(fault: Fault) -> list[int]:
    """Sends headers over the limit."""
    await fault.send(get("/v2/health/live", f"X-Fill: {'x' * fault.rng.randint(MAX_HEADER_BYTES, 20_000)}"))
    return await fault.statuses(1)


async def announces_too_much(fault: Fault) -> list[int]:
    """Announces a body over the limit, and sends some of it."""
    await fault.send(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {MAX_BODY_BYTES + 1}\r\n\r\n".encode())
    await fault.send(bytes(fault.rng.randint(0, 200_000)))
    return await fault.statuses(1)


async def pipelines(fault: Fault) -> list[int]:
    """Sends requests ahead, sometimes too many, and reads some of the answers."""
    count = fault.rng.choice([2, 5, 10, 40])
    await fault.send(b"".join(request(fault.rng) for _ in range(count)))
    return await fault.statuses(fault.rng.randint(0, min(count, 15)))


async def never_ends_its_head(fault: Fault) -> list[int]:
    """Slow loris: a byte of a header now and then."""
    await fault.send(b"GET /v2 HTTP/1.1\r\nX-Slow: ")
    answered = asyncio.create_task(fault.statuses(1))
    while not answered.done():
        await fault.send(b"x")
        await asyncio.wait([answered], timeout=0.1)
    return await answered


async def never_ends_its_body(fault: Fault) -> list[int]:
    """Sends a body byte by byte."""
    await fault.send(request(fault.rng).replace(b"Content-Length: ", b"Content-Length: 9"))
    answered = asyncio.create_task(fault.statuses(1))
    while not answered.done():
        await fault.send(b" ")
        await asyncio.wait([answered], timeout=0.1)
    return await answered


async def says_nothing(fault: Fault) -> list[int]:
    """Connects, and that is all."""
    return await fault.statuses(1)


async def never_reads(fault: Fault) -> list[int]:
    """Asks for more than the kernel keeps, and reads nothing until it is cut off."""
    await fault.send(large_request(VERY_LARGE_BYTES))
    give_up = time.monotonic() + GIVE_UP_S
    begin = b""
    while not fault.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        assert time.monotonic() < give_up, f"it was not cut off after {begin!r}"
        try:
            begin = fault.socket.recv(20, socket.MSG_PEEK)
        except BlockingIOError:
            pass
        except ConnectionError:
            break
        else:
            if _status(begin) != 200:
                break
        await asyncio.sleep(0.05)
    return [_status(begin)] if begin else []


async def comes_with_all_its_friends(fault: Fault) -> list[int]:
    """Opens more connections than there may be."""
    friends = [Fault(fault.address, fault.rng) for _ in range(MAX_CONNECTIONS + 20)]
    found: list[int] = []

    async def come(friend: Fault) -> None:
        async with friend:
            await friend.send(get("/v2/health/live"))
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    found.extend(await friend.statuses(1))
                    await asyncio.sleep(0.2)

    for outcome in await asyncio.gather(*(come(friend) for friend in friends), return_exceptions=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, OSError):
            raise outcome
    return found


QUICK: tuple[Callable[[Fault], Awaitable[list[int]]], ...] = (
    leaves_anywhere,
    leaves_anywhere,
    leaves_anywhere,
    sends_no_more,
    speaks_nonsense,
    changes_bytes,
    breaks_chunks,
    sends_too_much_of_a_head,
    announces_too_much,
    pipelines,
)
HEAVY = (leaves_an_answer,)
SLOW = (never_ends_its_head, never_ends_its_body, says_nothing)
"""Each lasts as long as the limit that ends it."""


@dataclass
class GoodClient:
    """Asks one thing after another on one connection, and knows every answer."""

    address: tuple[str, int]
    seed: int
    took_s: list[float] = field(default_factory=list)

    async def ask(self, going: Callable[[], bool]) -> None:
        """Ask for as long as it is `going`.

        Raises:
            AssertionError: an answer was wrong, or not there.
        """
        rng = np.random.default_rng(self.seed)
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            while going():
                x = rng.standard_normal(rng.integers(1, 50)).astype(np.float32)
                tensor = {"name": "x", "datatype": "FP32", "shape": [1, len(x)], "data": x.tolist()}
                begun = time.monotonic()
                writer.write(post(PATH, json.dumps({"inputs": [tensor]}).encode()))
                async with asyncio.timeout(GIVE_UP_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(re.findall(rb"(?i)content-length: (\d+)", head)[0])
                    body = await reader.readexactly(length)
                self.took_s.append(time.monotonic() - begun)
                assert head.startswith(b"HTTP/1.1 200 "), head + body
                assert np.array_equal(np.float32(json.loads(body)["outputs"][0]["data"]), x * 2), body
        finally:
            writer.close()
