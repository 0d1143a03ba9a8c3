"""The one listening socket: bound before anything starts, inherited by every front process."""

from __future__ import annotations

import ipaddress
import socket

BACKLOG = 2048


class ListenError(Exception):
    """The address cannot be listened on; the message says why."""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one.

    Raises:
        ListenError: no such host, address in use, or not permitted.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ListenError(f"cannot listen on {host}:{port}: {(error.strerror or str(error)).lower()}") from None
    except ValueError as error:  # a name that cannot be looked up: a label of 64 letters
        raise ListenError(f"cannot listen on {host!r}: not a host name: {error}") from None
    listener.setblocking(False)
    return listener


def url(listener: socket.socket) -> str:
    """Return the base URL that a client on this machine can use."""
    address = ipaddress.ip_address(listener.getsockname()[0])
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    host = str(address) if address.version == 4 else f"[{address}]"
    return f"http://{host}:{listener.getsockname()[1]}"


def is_loopback(listener: socket.socket) -> bool:
    """Return whether only this machine can connect."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback
