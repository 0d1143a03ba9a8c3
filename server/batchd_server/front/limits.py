"""The body of a request, read and inflated under a limit.

Every limit is checked while the bytes come in, so that no client makes the front hold more than `max_body_bytes`, and
all clients together no more than `max_incoming_bytes` of what is not prepared yet.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from starlette.requests import Request

from batchd_server.errors import BadRequest, TooLarge, Unavailable, UnsupportedEncoding
from batchd_server.front.disconnects import ClientGone

_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_PART_BYTES = 64 * 2**10  # of compressed data at a time: what zlib leaves over of it is copied
_PIECE_BYTES = 2**20  # of inflated data at a time, each charged for


@dataclass(slots=True)
class IncomingBytes:
    """What one front holds of bodies that are not prepared yet: neither slow senders nor a crowd can take its memory.

    Bodies are inflated in threads, so these count, too.
    """

    limit: int
    held: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def charge(self) -> Charge:
        """Return what is to count the bytes of one request for as long as its context lasts."""
        return Charge(self)


class Charge:
    """The part of one request in the incoming bytes; given back with its context, whatever ends that."""

    __slots__ = ("_incoming", "_num_bytes", "_over")

    def __init__(self, incoming: IncomingBytes) -> None:
        self._incoming = incoming
        self._num_bytes = 0
        self._over = False

    def __enter__(self) -> Charge:
        """Begin with nothing."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Give everything back; a thread that is still at the request gets no more."""
        with self._incoming.lock:
            self._incoming.held -= self._num_bytes
            self._over = True

    def take(self, num_bytes: int) -> None:
        """Make room for `num_bytes` more.

        Raises:
            Unavailable: there is none.
            ClientGone: nobody waits for the request any more, while a thread is still at it.
        """
        with self._incoming.lock:
            if self._over:
                raise ClientGone
            if self._incoming.held + num_bytes > self._incoming.limit:
                raise Unavailable("too many bodies are being received at once", code="too_much_incoming")
            self._incoming.held += num_bytes
            self._num_bytes += num_bytes

    def give_back(self, num_bytes: int) -> None:
        """Tell that `num_bytes` of what was taken are no longer held."""
        with self._incoming.lock:
            self._incoming.held -= num_bytes
            self._num_bytes -= num_bytes


async def read_body(request: Request, limit: int, charge: Charge) -> bytes:
    """Return the whole body as it was sent, and charge for its bytes as they come.

    Raises:
        TooLarge: the declared or the received length exceeds `limit`; no more than that has been kept.
        Unavailable: there is no room for it among the incoming bytes.
        ClientGone: the connection closed before the body was complete.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and (len(declared) > 18 or int(declared) > limit):
        raise _too_large("the body", limit)
    body = bytearray()  # of a body in a million small parts, a list would be many times the size
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        if len(body) + len(chunk) > limit:
            raise _too_large("the body", limit)
        charge.take(len(chunk))
        if not message.get("more_body", False):
            return bytes(body + chunk) if body else chunk
        body += chunk


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


def inflate(body: bytes, encoding: str, limit: int, take: Callable[[int], None] | None = None) -> bytes:
    """Return `body` without its gzip or deflate encoding; never allocates more than `limit` bytes for it.

    `take` is told of every piece that has been inflated, and may refuse it.

    Raises:
        TooLarge: the inflated body exceeds `limit`.
        BadRequest: damaged, truncated or with bytes after its end.
    """
    stream = zlib.decompressobj(_WINDOW_BITS[encoding])
    pieces: list[bytes] = []
    size, read = 0, 0
    part = b""
    while not stream.eof:
        if not part:
            part = body[read : read + _PART_BYTES]
            read += len(part)
        most = min(_PIECE_BYTES, limit - size + 1)
        try:
            piece = stream.decompress(part, most)
        except zlib.error as error:
            raise BadRequest(f"the body is not valid {encoding} data", field="Content-Encoding") from error
        if not piece and not part:
            raise BadRequest(f"the {encoding} data of the body is truncated", field="Content-Encoding")
        size += len(piece)
        if size > limit:
            raise _too_large("the inflated body", limit)
        if take is not None:
            take(len(piece))
        pieces.append(piece)
        part = stream.unconsumed_tail
    following = len(stream.unused_data) + len(body) - read
    if following:
        raise BadRequest(f"{following} bytes follow the {encoding} data", field="Content-Encoding")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _too_large(what: str, limit: int) -> TooLarge:
    return TooLarge(f"{what} is larger than the {limit} bytes that are accepted", field="body")
