"""The body of a request, read and inflated under a limit.

Every limit is checked while the bytes come in, so that no client makes the front hold more than `max_body_bytes`.
"""

from __future__ import annotations

import zlib

from starlette.requests import Request

from batchd_server.errors import BadRequest, TooLarge, UnsupportedEncoding
from batchd_server.front.disconnects import ClientGone

_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


async def read_body(request: Request, limit: int) -> bytes:
    """Return the whole body as it was sent.

    Raises:
        TooLarge: the declared or the received length exceeds `limit`; no more than that has been kept.
        ClientGone: the connection closed before the body was complete.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and (len(declared) > 18 or int(declared) > limit):
        raise _too_large("the body", limit)
    chunks: list[bytes] = []
    received = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        received += len(chunk)
        if received > limit:
            raise _too_large("the body", limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


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
