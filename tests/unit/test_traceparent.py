"""`traceparent` as W3C Trace Context has it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd_server.observe.traceparent import TraceParent, parse_traceparent

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{PARENT}-01"


@pytest.mark.parametrize("header", [VALID, f"00-{TRACE}-{PARENT}-ff", f"cc-{TRACE}-{PARENT}-01-what-comes"])
def test_valid_ones(header: str) -> None:
    assert parse_traceparent(header.encode()) == TraceParent(TRACE, PARENT)


@pytest.mark.parametrize(
    "header",
    [
        "",
        VALID.upper(),
        VALID + " ",
        VALID + "-more",
        VALID + "-",
        VALID[:-1],
        f"ff-{TRACE}-{PARENT}-01",
        f"cc-{TRACE}-{PARENT}-01.what",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{TRACE}{PARENT}-01",
        f"0-{TRACE}-{PARENT}-01",
        VALID.replace("4", "\u0664"),  # a digit elsewhere
    ],
)
def test_invalid_ones_are_none(header: str) -> None:
    assert parse_traceparent(header.encode()) is None


@given(st.binary(max_size=80) | st.text(alphabet="0123456789abcdef-", max_size=60).map(str.encode))
def test_any_bytes_give_safe_ids_or_none(header: bytes) -> None:
    trace = parse_traceparent(header)
    assert trace is None or (len(trace.trace_id), len(trace.parent_id)) == (32, 16)
