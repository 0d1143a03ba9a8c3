"""The body of a request, read and inflated under a limit.

Every limit is checked while the bytes come in, so that no client makes the front hold more than `max_body_bytes`.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from starlette.requests import Request

from batchd_server.errors import BadRequest, TooLarge, Unavailable, UnsupportedEncoding
from batchd_server.front.disconnects import ClientGone

_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


@dataclass(slots=True)
class IncomingBytes:
    """What one front holds of bodies that are not complete yet, so that many slow senders cannot take its memory."""

    limit: int
    held: int = 0

    def take(self, num_bytes: int) -> None:
        """Make room for `num_bytes` more.

        Raises:
            Unavailable: there is none.
        """
        if self.held + num_bytes > self.limit:
            raise Unavailable("too many bodies are being received at once", code="too_much_incoming")
        self.held += num_bytes


async def read_body(request: Request, limit: int, incoming: IncomingBytes) -> bytes:
    """Return the whole body as it was sent; its bytes count as `incoming` until it is complete.

    Raises:
        TooLarge: the declared or the received length exceeds `limit`; no more than that has been kept.
        Unavailable: there is no room for it among the `incoming`.
        ClientGone: the connection closed before the body was complete.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and (len(declared) > 18 or int(declared) > limit):
        raise _too_large("the body", limit)
    body = bytearray()  # of a body in a million small parts, a list would be many times the size
    taken = 0
    try:
        while True:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk: bytes = message.get("body", b"")
            if len(body) + len(chunk) > limit:
                raise _too_large("the body", limit)
            if not message.get("more_body", False):
                return bytes(body + chunk) if body else chunk
            incoming.take(len(chunk))
            taken += len(chunk)
            body += chunk
    finally:
        incoming.held -= taken


def content_encoding(request: Request) -> str | None:
    """Return the encoding that the body must be freed of, or None.

    Raises:
        UnsupportedEncoding: anything but gzip, deflate and identity, or several at once.
    """
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding in {"", "identity"}:
        return None
    if encoding not in _WINDOW_BITS:
        raise UnsupportedEncoding(
            f"content encoding {encoding[:64]!r} is not supported; use gzip, deflate or none", field="Content-Encoding"
        )
    return encoding


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """Return `body` without its gzip or deflate encoding; never allocates more than `limit` bytes for it.

    Raises:
        TooLarge: the inflated body exceeds `limit`.
        BadRequest: damaged, truncated or with bytes after its end.
    """
    stream = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        inflated = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise BadRequest(f"the body is not valid {encoding} data", field="Content-Encoding") from error
    if len(inflated) > limit:
        raise _too_large("the inflated body", limit)
    if not stream.eof:
        raise BadRequest(f"the {encoding} data of the body is truncated", field="Content-Encoding")
    if stream.unused_data:
        raise BadRequest(f"{len(stream.unused_data)} bytes follow the {encoding} data", field="Content-Encoding")
    return inflated


def _too_large(what: str, limit: int) -> TooLarge:
    return TooLarge(f"{what} is larger than the {limit} bytes that are accepted", field="body")
