"""A front process's end of the link, driven by its event loop.

The socket's descriptor is watched directly: pyzmq's own asyncio sockets build a future per message. The descriptor is
edge-triggered, so after every operation on the socket its pending events are looked at again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

import zmq
from zmq.utils.monitor import parse_monitor_message

from batchd_server.link.codec import Frame, LinkError, decode_device_message, encode
from batchd_server.link.messages import DeviceMessage, FrontMessage

log = logging.getLogger(__name__)

MAX_DRAIN = 256
"""Messages taken in one go, so that a busy link does not hold up the event loop."""

OnMessage = Callable[[DeviceMessage, list[memoryview]], None]
OnConnection = Callable[[bool], None]


class FrontEndpoint:
    """Connects to the device process at `address`, and again whenever that is replaced.

    Made, used and closed in one event loop. `on_message` gets what the device process says; `on_connection` learns when
    the connection comes and goes. Nothing is queued for a device process that is not there: `send` says so instead.
    """

    def __init__(self, address: str, identity: bytes, *, on_message: OnMessage, on_connection: OnConnection) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._on_connection = on_connection
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, identity)
        # queue for a live connection only: what a dead process did not read is offered anew, not delivered twice
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 20)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 200)
        self._socket.setsockopt(zmq.LINGER, 200)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._socket.connect(address)
        self._fd = int(self._socket.getsockopt(zmq.FD))
        self._monitor_fd = int(self._monitor.getsockopt(zmq.FD))
        self._loop.add_reader(self._fd, self._drain)
        self._loop.add_reader(self._monitor_fd, self._drain_monitor)
        self._again: asyncio.Handle | None = None
        self._closed = False
        self._drain_monitor()

    def send(self, message: FrontMessage, frames: Sequence[Frame] = ()) -> bool:
        """Send, or return False where no device process is connected; then nothing was sent.

        Raises:
            LinkError: where `message` cannot be encoded.
        """
        try:
            self._socket.send_multipart(encode(message, frames), zmq.DONTWAIT, copy=False)
        except zmq.Again:
            return False
        finally:
            self._look_again()
        return True

    def close(self) -> None:
        """Send what is queued for a fifth of a second at most, then close."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._fd)
        self._loop.remove_reader(self._monitor_fd)
        if self._again is not None:
            self._again.cancel()
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close()
        self._context.term()

    def _look_again(self) -> None:
        """Make up for an edge of the descriptor that the last operation may have consumed."""
        if self._again is None and not self._closed and int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._again = self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        self._again = None
        for _ in range(MAX_DRAIN):
            if self._closed:
                return
            try:
                parts = self._socket.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return
            try:
                message = decode_device_message(parts[0].buffer)
            except LinkError as error:
                log.warning("dropped from the device process: %s", error)
                continue
            self._on_message(message, [part.buffer for part in parts[1:]])
        self._look_again()

    def _drain_monitor(self) -> None:
        while not self._closed and int(self._monitor.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            event = parse_monitor_message(self._monitor.recv_multipart(zmq.DONTWAIT))["event"]
            self._on_connection(event == zmq.EVENT_HANDSHAKE_SUCCEEDED)
