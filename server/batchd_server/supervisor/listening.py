"""The one listening socket: bound before anything starts, inherited by every front process."""

from __future__ import annotations

import ipaddress
import socket
from typing import ClassVar

BACKLOG = 2048


class ListenError(Exception):
    """The address cannot be listened on; the message says why."""

    exit_code: ClassVar[int] = 1


class ExposedError(ListenError):
    """Other machines could reach the address, and nothing would ask them for a key."""

    exit_code = 2


def listen(host: str, port: int, *, loopback_only: bool) -> socket.socket:
    """Return a listening socket; port 0 takes a free one.

    Raises:
        ExposedError: `loopback_only`, and the address is another; nothing has been bound.
        ListenError: no such host, address in use, or not permitted.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        if loopback_only and not _is_loopback(str(address[0])):
            raise ExposedError(
                f"server.host {host!r} can be reached from other machines, and there are no keys: configure some "
                "(`batchd key new`), or allow it with --insecure or server.insecure = true"
            )
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
    return _is_loopback(listener.getsockname()[0])


def _is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback
