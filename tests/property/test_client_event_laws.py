"""Server-sent events are the same however the bytes are cut, and whichever line ends the server writes."""

from __future__ import annotations

import json
import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from batchd_client import RetryPolicy
from batchd_client.event_parser import EventParser, ServerSentEvent
from batchd_client.exchange import CallSettings, Failure, FailureKind
from batchd_client.following import Following

LINE = st.text(st.characters(exclude_characters="\r\n", exclude_categories=("Cs",)), max_size=12)
WORD = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=8)
EVENT = st.tuples(st.integers(0, 10**6), WORD, st.lists(LINE, min_size=1, max_size=3), st.booleans())


def written(events: list[tuple[int, str, list[str], bool]], ends: list[str]) -> str:
    lines: list[str] = []
    for number, kind, data, comment in events:
        lines += [f"id: {number}", f"event: {kind}", *(f"data: {line}" for line in data)]
        lines += [": keep-alive"] * comment + [""]
    return "".join(line + ends[index % len(ends)] for index, line in enumerate(lines))


def cut(body: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[start:end] for start, end in pairwise(edges)]


@given(
    st.lists(EVENT, max_size=6),
    st.lists(st.sampled_from(["\n", "\r\n", "\r"]), min_size=1, max_size=3),
    st.lists(st.integers(0, 10_000), max_size=12),
    st.booleans(),
)
def test_what_is_written_is_read(
    events: list[tuple[int, str, list[str], bool]], ends: list[str], places: list[int], mark: bool
) -> None:
    # "\r" before a line that is empty and ends in "\n" would read as one line end: the standard's own ambiguity.
    ends = ends if len(set(ends)) == 1 else [end for end in ends if end != "\r"] or ["\n"]
    text = ("\ufeff" if mark else "") + written(events, ends)
    parser = EventParser()
    found = [event for chunk in cut(text.encode(), places) for event in parser.feed(chunk)]
    assert found == [
        ServerSentEvent(id=str(number), kind=kind, data="\n".join(data)) for number, kind, data, _ in events
    ]


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_no_bytes_break_it_and_cutting_changes_nothing(chunks: list[bytes]) -> None:
    whole, pieces = EventParser(), EventParser()
    together = whole.feed(b"".join(chunks))
    apart = [event for chunk in chunks for event in pieces.feed(chunk)]
    assert together == apart
    assert (whole.last_id, whole.retry_s) == (pieces.last_id, pieces.retry_s)


def stream(ids: list[int], after: int) -> bytes:
    """What a server sends from a job's history; its last event is the job's end."""
    lines = ["retry: 1000\n\n"]
    for number in ids:
        if number > after:
            kind = "succeeded" if number == ids[-1] else "validation"
            data = json.dumps({"id": number, "kind": kind, "at": float(number), "data": {"text": "\u00e9\n"}})
            lines.append(f": still here\n\nid: {number}\nevent: {kind}\ndata: {data}\n\n")
    return "".join(lines).encode()


@given(
    st.sets(st.integers(1, 10**6), min_size=1, max_size=12).map(sorted),
    st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.integers(1, 40)), max_size=30),
    st.integers(0, 2**32),
)
def test_every_event_comes_once_and_in_order_wherever_connections_break(
    ids: list[int], breaks: list[tuple[float, bool, int]], seed: int
) -> None:
    policy = RetryPolicy(rng=random.Random(seed))
    settings = CallSettings(base_url="http://x", headers={}, retry=policy, read_timeout_s=60.0)
    following = Following("/events", settings, after=0, patience_s=60.0)
    found: list[int] = []
    now = 0.0
    plan = iter([*breaks, (1.0, False, 7)])
    while not following.finished:
        share, broken, size = next(plan)
        body = stream(ids, int(following.send().request.headers["last-event-id"]))
        body = body[: round(share * len(body))]
        following.opened({"Content-Type": "text/event-stream"})
        for start in range(0, len(body), size):
            found += [event.id for event in following.received(body[start : start + size])]
        if following.finished:
            break
        now += 1.0
        if broken:
            following.failed(Failure(FailureKind.LOST, "broken"), now)
        else:
            following.closed(now)
        assert following.pause_s >= 0
        now += following.pause_s
    assert found == ids
