"""Server-sent events from the bytes of a response, however those are cut. No I/O.

Source: WHATWG HTML, section 9.2 "Server-sent events".
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass

_BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSentEvent:
    """One event. `id` is the last one that the stream has told, of this event or of one before it."""

    id: str
    kind: str
    data: str


class EventParser:
    """Reads one response. What is not complete when the response ends is dropped, as the standard has it."""

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self.retry_s: float | None = None
        """How long the server asks to wait before the next connection."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._started = False
        self._after_return = False  # a line feed that comes next belongs to the carriage return before it
        self._line = ""
        self._kind = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Take the next bytes, and return the events that they complete."""
        text = self._decoder.decode(chunk)
        if not text:
            return []
        if not self._started:
            self._started = True
            text = text.removeprefix(_BYTE_ORDER_MARK)
        ends_with_return = text.endswith("\r")
        if self._after_return:
            text = text.removeprefix("\n")
        self._after_return = ends_with_return
        *lines, self._line = (self._line + text.replace("\r\n", "\n").replace("\r", "\n")).split("\n")
        return [event for line in lines if (event := self._take(line)) is not None]

    def _take(self, line: str) -> ServerSentEvent | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "event":
                self._kind = value
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self.last_id = value
            case "retry" if value.isascii() and value.isdigit():
                self.retry_s = int(value) / 1000
            case _:
                pass  # a comment, or a field that the standard does not know
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        kind, data = self._kind or "message", self._data
        self._kind, self._data = "", []
        if not data:
            return None
        return ServerSentEvent(id=self.last_id, kind=kind, data="\n".join(data))
