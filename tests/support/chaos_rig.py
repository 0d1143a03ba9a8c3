"""A daemon that is shot at while it serves and trains, and a client that knows every right answer.

The model's batches take a known time without using a core: a rate is a share of the capacity on any machine.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

MARK = 666.0
"""An item that holds it makes the model dereference a null pointer."""
BATCH_S, ITEM_S, MAX_BATCH_SIZE = 0.020, 0.004, 16
CAPACITY = MAX_BATCH_SIZE / (BATCH_S + ITEM_S * MAX_BATCH_SIZE)
"""Items per second with full batches."""
PATIENT_S, HURRIED_S = 15.0, 0.4
GIVE_UP_S = 60.0

MODEL = f'''
import ctypes
import time
import torch
from trainable_rig import CLASSES, FEATURES, Net, Rows, Rowwise
from batchd_server.models.padded import PaddedModel
from batchd_server.models.spec import TensorSpec


class Chaos(Rowwise, PaddedModel):
    """Answers 2x + 1, slowly; trains the rig's network; dies of a marked input."""

    inputs = [TensorSpec(name="x", datatype="FP32", shape=("n", FEATURES))]
    outputs = [TensorSpec(name="y", datatype="FP32", shape=("n", FEATURES))]

    def __init__(self, learn_s=0.0):
        self.learn_s = learn_s
        Rowwise.__init__(self, dropout=0.1, examples=Rows(count=200))

    def build(self):
        return torch.nn.Identity()

    def forward(self, batch):
        x = batch["x"]
        if (x == {MARK}).any():
            ctypes.string_at(0)
        time.sleep({BATCH_S} + {ITEM_S} * len(x))
        return {{"y": x * 2 + 1}}

    def losses(self, network, batch):
        time.sleep(self.learn_s)
        return super().losses(network, batch)
'''


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One request and what became of it. Times are seconds."""

    number: int
    marked: bool
    timeout_s: float
    took_s: float
    status: int | None  # None: no HTTP answer at all
    code: str | None = None
    right: bool = False
    retry_after: str | None = None
    trouble: str = ""


@dataclass(slots=True)
class Shots:
    """The client: an open loop that keeps every outcome."""

    url: str
    sent: list[Sent] = field(default_factory=list)

    async def fire(self, rate: float, duration_s: float, *, marked_every: int, hurried: float, seed: int) -> None:
        """Send at `rate` per second, Poisson; every `marked_every`th is deadly, a share `hurried` has little time."""
        rng = random.Random(seed)
        # the front closes connections that are idle for 5 s: none is taken up that may be closed just now
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=1.0)
        client = httpx.AsyncClient(base_url=self.url, timeout=GIVE_UP_S, limits=limits)
        async with client, asyncio.TaskGroup() as tasks:
            begun, due, number = time.monotonic(), 0.0, 0
            while (due := due + rng.expovariate(rate)) < duration_s:
                await asyncio.sleep(max(0.0, begun + due - time.monotonic()))
                number += 1
                marked = number % marked_every == marked_every // 2
                timeout_s = HURRIED_S if rng.random() < hurried and not marked else PATIENT_S
                rows = rng.randint(1, 6)
                tasks.create_task(self._send(client, number, rows, marked=marked, timeout_s=timeout_s))

    async def _send(self, client: httpx.AsyncClient, number: int, rows: int, *, marked: bool, timeout_s: float) -> None:
        x = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4) + 1000 * number
        if marked:
            x[-1, -1] = MARK
        body = {
            "id": f"shot-{number}",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, rows, 4], "data": x.ravel().tolist()}],
        }
        headers = {"X-Request-Timeout-Ms": f"{timeout_s * 1000:.0f}", "X-Request-Id": f"shot-{number}"}
        begun = time.monotonic()
        outcome: dict[str, Any]
        try:
            answer = await client.post("/v2/models/chaos/infer", json=body, headers=headers)
            outcome = _judged(answer, x, f"shot-{number}")
        except httpx.HTTPError as error:
            outcome = {"status": None, "trouble": repr(error)}
        took_s = time.monotonic() - begun
        self.sent.append(Sent(number=number, marked=marked, timeout_s=timeout_s, took_s=took_s, **outcome))


def _judged(answer: httpx.Response, x: np.ndarray[Any, Any], shot: str) -> dict[str, Any]:
    if answer.status_code != 200:
        return {
            "status": answer.status_code,
            "code": answer.json().get("code"),
            "retry_after": answer.headers.get("retry-after"),
            "trouble": answer.text[:300],
        }
    document = answer.json()
    (output,) = document["outputs"]
    right = (
        document["id"] == shot
        and answer.headers["x-request-id"] == shot
        and output["shape"] == [1, *x.shape]
        and output["data"] == (x * 2 + 1).ravel().tolist()
    )
    return {"status": 200, "right": right, "trouble": "" if right else answer.text[:300]}


async def shoot_every(period_s: float, until: float, shoot: Callable[[int], Awaitable[None]]) -> None:
    """Call `shoot` with 0, 1, 2... every `period_s` until the monotonic time `until`; half of that lies between two."""
    number, begun = 0, time.monotonic()
    due = begun + period_s
    while due < until:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await shoot(number)
        number += 1
        due = max(begun + (number + 1) * period_s, time.monotonic() + period_s / 2)
