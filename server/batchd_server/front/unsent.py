"""What the kernel knows of a client: what it has not taken yet of what was written to it, and whether it has left."""

from __future__ import annotations

import asyncio
import fcntl
import select
import socket
import struct
import termios


def unsent_bytes(transport: asyncio.WriteTransport) -> int:
    """Return the bytes that wait in this process, and with them those in the kernel; 0 where none wait in this process.

    The kernel takes more only when a third of its buffer of up to 4 MiB is free: for that long a slow reader would seem
    not to read at all. Source: tcp(7), SIOCOUTQ; where there is none, what waits here must do.
    """
    waiting = transport.get_write_buffer_size()
    connection = transport.get_extra_info("socket")
    if not waiting or connection is None:
        return waiting
    try:
        reply = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0" * 4)
    except OSError:
        return waiting
    return waiting + int(struct.unpack("i", reply)[0])


def reset(transport: asyncio.WriteTransport) -> None:
    """End a connection with all that waits, of which the kernel would otherwise go on offering its part for minutes."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def has_left(transport: asyncio.WriteTransport) -> bool:
    """Return whether the client has closed the connection, or its sending side; asks where nothing is read that tells.

    Source: poll(2); POLLRDHUP is Linux's own, elsewhere only a connection that has failed is found.
    """
    connection = transport.get_extra_info("socket")
    if connection is None or connection.fileno() < 0:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), getattr(select, "POLLRDHUP", 0))  # errors and hang-ups are always told
    return bool(poll.poll(0))
