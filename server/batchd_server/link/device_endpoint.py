"""The device process's end of the link: one thread receives from all front processes and answers them.

Everything but `Waker.wake` belongs to the thread that made the endpoint.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Sequence
from dataclasses import dataclass

import zmq

from batchd_server.link.codec import Frame, LinkError, decode_front_message, encode
from batchd_server.link.messages import DeviceMessage, FrontMessage

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Received:
    """One message of a front process; `frames` are the tensors' bytes."""

    front: bytes
    message: FrontMessage
    frames: list[memoryview]


class Waker:
    """Ends a `DeviceEndpoint.receive` that waits, from any thread. A wake-up before it waits is not lost."""

    def __init__(self) -> None:
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def wake(self) -> None:
        """Have the present or next `receive` return now."""
        os.eventfd_write(self._eventfd, 1)

    def fileno(self) -> int:
        """Return the descriptor that is readable while a wake-up is pending."""
        return self._eventfd

    def clear(self) -> None:
        """Forget pending wake-ups."""
        try:
            os.eventfd_read(self._eventfd)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Release the descriptor; nobody may call `wake` any more."""
        os.close(self._eventfd)


class DeviceEndpoint:
    """Bound to `address`; front processes come and go.

    There is no high-water mark: what can queue for a front is bounded by what was admitted for it.
    """

    def __init__(self, address: str) -> None:
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        # without it, answers to a front that has gone would vanish without a word
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.setsockopt(zmq.LINGER, 500)
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise LinkError(f"cannot listen on {address}: {error}") from error
        self._fd = int(self._socket.getsockopt(zmq.FD))
        self._waker = Waker()

    def waker(self) -> Waker:
        """Return what other threads use to end a waiting `receive`."""
        return self._waker

    def receive(self, timeout_s: float) -> list[Received]:
        """Return all that is there; if nothing is, wait up to `timeout_s` for a message or a wake-up."""
        received = self._drain()
        if received or timeout_s <= 0:
            self._waker.clear()
            return received
        give_up = time.monotonic() + timeout_s
        while True:
            # select for its microseconds: poll and epoll round the wait up to whole milliseconds
            remaining = max(0.0, min(give_up - time.monotonic(), 3600.0))
            readable, _, _ = select.select([self._fd, self._waker.fileno()], [], [], remaining)
            woken = self._waker.fileno() in readable
            self._waker.clear()
            # the socket's descriptor also signals what is no message, such as a front that connects
            received = self._drain()
            if received or woken or time.monotonic() >= give_up:
                return received

    def send(self, front: bytes, message: DeviceMessage, frames: Sequence[Frame] = ()) -> bool:
        """Send to one front. False where that front has gone: the message is dropped, and the caller may forget it.

        Raises:
            LinkError: where `message` cannot be encoded.
        """
        try:
            self._socket.send_multipart([front, *encode(message, frames)], zmq.DONTWAIT, copy=False)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise LinkError(f"cannot send to front {front!r}: {error}") from error
            log.warning("front %s has gone: %s dropped", front.decode(errors="replace"), type(message).__name__)
            return False
        return True

    def close(self) -> None:
        """Send what is queued for half a second at most, then close."""
        self._socket.close()
        self._context.term()
        self._waker.close()

    def _drain(self) -> list[Received]:
        received: list[Received] = []
        while True:
            try:
                parts = self._socket.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return received
            front = parts[0].bytes
            try:
                if len(parts) < 2:
                    raise LinkError("no message in it")
                message = decode_front_message(parts[1].buffer)
            except LinkError as error:
                log.warning("dropped from front %s: %s", front.decode(errors="replace"), error)
                continue
            received.append(Received(front, message, [part.buffer for part in parts[2:]]))
