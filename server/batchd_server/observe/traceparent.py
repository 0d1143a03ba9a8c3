"""The header `traceparent` of W3C Trace Context (level 1, section 3.2), read strictly."""

from __future__ import annotations

import re
from dataclasses import dataclass

_HEADER = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?", re.DOTALL)
_NO_TRACE = b"0" * 32
_NO_PARENT = b"0" * 16


@dataclass(frozen=True, slots=True)
class TraceParent:
    """Where a request belongs in a distributed trace, both ids in lower-case hexadecimal digits."""

    trace_id: str
    parent_id: str


def parse_traceparent(header: bytes) -> TraceParent | None:
    """Return what `header` says, or None where it is not valid, which means that the request belongs to no trace.

    Versions to come may append fields, which are passed over; version 00 may not, and ff is none.
    """
    found = _HEADER.fullmatch(header)
    if found is None:
        return None
    version, trace, parent, rest = found.groups()
    if version == b"ff" or trace == _NO_TRACE or parent == _NO_PARENT or (version == b"00" and rest is not None):
        return None
    return TraceParent(trace.decode(), parent.decode())
