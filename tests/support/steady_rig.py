"""A client that keeps its connections alive and never sends anything twice: what is lost on the way shows.

The model's batches take a known time without using a core: a rate is a share of the capacity on any machine.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

BATCH_S, ITEM_S, MAX_BATCH_SIZE = 0.020, 0.004, 16
CAPACITY = MAX_BATCH_SIZE / (BATCH_S + ITEM_S * MAX_BATCH_SIZE)
"""Items per second with full batches."""
GIVE_UP_S = 60.0
MOST_IN_FLIGHT = 48
"""On a machine that is too slow for the rate, the loop closes: drowning is not what is tested."""

MODEL = f'''
import time
import torch
from trainable_rig import Rowwise
from batchd_server.models.padded import PaddedModel
from batchd_server.models.spec import TensorSpec


class Steady(Rowwise, PaddedModel):
    """Answers 2x + 1, and takes its time for it, as for a microbatch of the rig's training."""

    inputs = (TensorSpec(name="x", datatype="FP32", shape=("n",)),)
    outputs = (TensorSpec(name="y", datatype="FP32", shape=("n",)),)

    def build(self):
        return torch.nn.Identity()

    def forward(self, batch):
        x = batch["x"]
        time.sleep({BATCH_S} + {ITEM_S} * len(x))
        return {{"y": x * 2 + 1}}

    def losses(self, network, batch):
        time.sleep({ITEM_S})
        return super().losses(network, batch)
'''

CONFIG = """
[models.steady]
entrypoint = "steady_model:Steady"

[models.steady.batching]
slo_ms = 30000
max_batch_size = 16
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One request and what became of it."""

    sent: float
    """In monotonic seconds, as the first byte was written."""
    reused: bool
    """Whether on a connection that had carried a request before."""
    status: int | None = None
    """None: no answer at all."""
    right: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    refused: bool = False
    """Whether nobody accepted the connection."""
    trouble: str = ""


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    used: bool = False

    @property
    def usable(self) -> bool:
        return not self.reader.at_eof() and not self.writer.is_closing()


class SteadyClient:
    """An open loop: what is due is sent, on a connection that is idle or on a new one."""

    def __init__(self, url: str, *, seed: int = 1) -> None:
        self._address = urlsplit(url)
        self._rng = random.Random(seed)
        self._idle: list[_Connection] = []
        self._room = asyncio.Semaphore(MOST_IN_FLIGHT)
        self.samples: list[Sample] = []

    async def send_until(self, end: asyncio.Event, rate: float) -> None:
        """Send at `rate` per second, Poisson, until `end` is set; then wait for the answers."""
        due = time.monotonic()
        async with asyncio.TaskGroup() as requests:
            while not end.is_set():
                due += self._rng.expovariate(rate)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                await self._room.acquire()
                requests.create_task(self._send()).add_done_callback(lambda _: self._room.release())
        for connection in self._idle:
            connection.writer.close()

    async def _send(self) -> None:
        number = self._rng.randrange(1_000_000)
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [number, 0.5]}
        body = json.dumps({"inputs": [tensor]}).encode()
        head = f"POST /v2/models/steady/infer HTTP/1.1\r\nhost: test\r\ncontent-length: {len(body)}\r\n\r\n"
        sent = time.monotonic()
        try:
            connection = await self._connection()
        except OSError as error:
            refused = isinstance(error, ConnectionRefusedError)
            self.samples.append(Sample(sent=sent, reused=False, refused=refused, trouble=repr(error)))
            return
        sent, reused = time.monotonic(), connection.used
        try:
            connection.writer.write(head.encode() + body)
            async with asyncio.timeout(GIVE_UP_S):
                status, headers, answer = await _read_answer(connection.reader)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            connection.writer.close()
            self.samples.append(Sample(sent=sent, reused=reused, trouble=repr(error)))
        else:
            right = status == 200 and json.loads(answer)["outputs"][0]["data"] == [number * 2 + 1, 2.0]
            self.samples.append(Sample(sent=sent, reused=reused, status=status, right=right, headers=headers))
            self._give_back(connection, headers)

    async def _connection(self) -> _Connection:
        while self._idle:  # any of them, so that some idle for long
            connection = self._idle.pop(self._rng.randrange(len(self._idle)))
            if connection.usable:
                return connection
            connection.writer.close()
        return _Connection(*await asyncio.open_connection(self._address.hostname, self._address.port))

    def _give_back(self, connection: _Connection, headers: Mapping[str, str]) -> None:
        connection.used = True
        if headers.get("connection") == "close":
            connection.writer.close()
        else:
            self._idle.append(connection)


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))
