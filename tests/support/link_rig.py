"""Requests as a front process keeps them, and what device processes say of those before them."""

from __future__ import annotations

import numpy as np

from batchd_server.link.codec import Frame, pack_tensors
from batchd_server.link.messages import Announce, Fallen, Offer, OfferedItem, RunningItem
from batchd_server.link.request_table import PendingRequest

FRONT = b"front-of-this-test"


def pending_request(
    number: int, items: int = 1, deadline: float = 10.0, value: float | None = None, model: str = "m"
) -> PendingRequest:
    """A request whose items hold `value`, its own number where that is None."""
    frames: list[Frame] = []
    content = np.array([float(number) if value is None else value], dtype=np.float32)
    offer = Offer(
        request=number,
        model=model,
        items=tuple(OfferedItem((1,), pack_tensors({"x": content}, frames)) for _ in range(items)),
        arrived=0.0,
        deadline=None,
        priority=0,
    )
    return PendingRequest(offer=offer, frames=frames, deadline=deadline)


def successor(number: int, *fallen: Fallen) -> Announce:
    """What the device process of incarnation `number` announces."""
    return Announce(incarnation=str(number), pid=number, ready=True, draining=False, models=(), fallen=fallen)


def fallen(
    number: int, code: int | None, *running: int, front: bytes = FRONT, job: str = "", beside: tuple[str, ...] = ()
) -> Fallen:
    """The end of the device process of incarnation `number`, on which the first items of these requests ran."""
    items = tuple(RunningItem(front, request, 0) for request in running)
    return Fallen(incarnation=str(number), exit=code, running=items, job=job, beside=beside)
