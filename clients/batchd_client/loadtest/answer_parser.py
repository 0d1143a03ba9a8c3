"""HTTP/1.1 answers from bytes, without I/O: as much of the protocol as a load generator meets, and cheap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MAX_HEAD_BYTES = 65_536
MAX_LINE_BYTES = 4096
"""Of the line before a chunk; one cut off must not be searched for ever."""
_NO_BODY = {204, 304}


class BrokenAnswer(Exception):
    """What came is no HTTP/1.1 answer, or ended before its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WireAnswer:
    """One whole answer; header names are in lower case, and of repeated ones the last counts."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    reusable: bool
    """Whether another request may follow on the connection."""


class AnswerParser:
    """Takes the bytes of one connection as they come and gives its answers, to requests other than HEAD."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head: tuple[int, dict[str, str], bool] | None = None
        self._left: int | None = None  # bytes of the body still to come; None: chunked, or until the end
        self._chunked = False
        self._chunks = bytearray()

    def feed(self, data: bytes) -> WireAnswer | None:
        """Take some bytes; return the answer that they complete.

        Raises:
            BrokenAnswer: they are none, or bytes follow that nobody asked for.
        """
        self._buffer += data
        while self._head is None:
            if not self._read_head():
                return None
        if self._chunked:
            return self._answer(bytes(self._chunks)) if self._read_chunks() else None
        if self._left is None or len(self._buffer) < self._left:
            return None
        body = bytes(self._buffer[: self._left])
        del self._buffer[: self._left]
        return self._answer(body)

    def end(self) -> WireAnswer | None:
        """The connection has been closed; return the answer that this completes, None where none had begun.

        Raises:
            BrokenAnswer: in the middle of one.
        """
        if self._head is not None and not self._chunked and self._left is None:
            body = bytes(self._buffer)
            self._buffer.clear()
            return self._answer(body)
        if self._head is None and not self._buffer:
            return None
        raise BrokenAnswer("the connection was closed in the middle of an answer")

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise BrokenAnswer(f"the head of the answer is longer than {MAX_HEAD_BYTES} bytes")
            return False
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        version, _, rest = first.partition(" ")
        code = rest[:3]
        if version not in ("HTTP/1.1", "HTTP/1.0") or len(code) != 3 or not (code.isascii() and code.isdigit()):
            raise BrokenAnswer(f"not an HTTP answer: {first[:60]!r}")
        status = int(code)
        if status < 200:  # only announces the answer
            return True
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon:
                raise BrokenAnswer(f"not a header: {line[:60]!r}")
            headers[name.lower()] = value.strip()
        self._frame(status, headers)
        connection = headers.get("connection", "").lower()
        kept = connection != "close" if version == "HTTP/1.1" else connection == "keep-alive"
        self._head = status, headers, kept and (self._chunked or self._left is not None)
        return True

    def _frame(self, status: int, headers: Mapping[str, str]) -> None:
        """Find out where the body ends.

        Source: RFC 9112, section 6.3.
        """
        if status in _NO_BODY:
            self._left = 0
        elif headers.get("transfer-encoding", "").lower() == "chunked":
            self._chunked = True
        elif (length := headers.get("content-length")) is not None:
            if not (length.isascii() and length.isdigit()) or len(length) > 18:
                raise BrokenAnswer(f"not a length: {length[:60]!r}")
            self._left = int(length)

    def _read_chunks(self) -> bool:
        """Move whole chunks out of the buffer; True once the last one and its trailer have come."""
        while True:
            end = self._buffer.find(b"\r\n")
            if end < 0 or self._left == 0:
                return self._read_trailer(end)
            try:
                size = int(bytes(self._buffer[:end]).partition(b";")[0].strip(), 16)
            except ValueError:
                raise BrokenAnswer("not the size of a chunk") from None
            if size < 0:
                raise BrokenAnswer("a chunk of negative size")
            if size == 0:
                del self._buffer[: end + 2]
                self._left = 0
                continue
            if len(self._buffer) < end + 2 + size + 2:
                return False
            self._chunks += self._buffer[end + 2 : end + 2 + size]
            del self._buffer[: end + 2 + size + 2]

    def _read_trailer(self, end: int) -> bool:
        while self._left == 0 and end >= 0:
            last = end == 0
            del self._buffer[: end + 2]
            if last:
                return True
            end = self._buffer.find(b"\r\n")
        if end < 0 and len(self._buffer) > MAX_LINE_BYTES:
            raise BrokenAnswer("a line of a chunked answer is too long")
        return False

    def _answer(self, body: bytes) -> WireAnswer:
        assert self._head is not None, "an answer ends after its head"
        if self._buffer:
            raise BrokenAnswer("more came than the answer")
        status, headers, reusable = self._head
        self._head, self._left, self._chunked = None, None, False
        self._chunks = bytearray()
        return WireAnswer(status=status, headers=headers, body=body, reusable=reusable)
