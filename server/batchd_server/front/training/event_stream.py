"""A job's events as a stream (server-sent events, WHATWG HTML section 9.2), resumable by `Last-Event-ID`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import anyio
import orjson

from batchd_server.errors import Unavailable
from batchd_server.front.service import Front
from batchd_server.front.training.job_documents import event_document
from batchd_server.training.records import Event, Job
from batchd_server.training.store import TrainingStore

POLL_S = 0.25
KEEP_ALIVE_S = 15.0
LAST_WORDS_S = 2.0
"""After a job's end, for the event that tells of it."""
PAGE = 500
RECONNECT_MS = 1000


async def event_stream(front: Front, job_id: str, after: int) -> AsyncIterator[bytes]:
    """Yield a job's events with ids over `after` as they come, until it has ended or the server stops.

    A store that fails ends the stream: the client comes back after `RECONNECT_MS`, with the last id that it has seen.
    """

    def news(store: TrainingStore) -> tuple[Job, list[Event]]:
        job = store.job(job_id)  # before its events, so that those of its end are among them
        return job, store.events(job_id, after=after, limit=PAGE)

    yield f"retry: {RECONNECT_MS}\n\n".encode()
    spoken = time.monotonic()
    kind = ""
    while not front.dispatcher.state().closing:
        try:
            job, events = await front.training.call(news)
        except (Unavailable, KeyError):
            return
        for event in events:
            yield _rendered(job_id, event)
        if events:
            after, kind, spoken = events[-1].id, events[-1].kind, time.monotonic()
        elif job.status.final and (kind == job.status.value or time.time() > (job.finished or 0.0) + LAST_WORDS_S):
            return
        elif time.monotonic() > spoken + KEEP_ALIVE_S:
            yield b": still here\n\n"
            spoken = time.monotonic()
        if len(events) < PAGE:
            await anyio.sleep(POLL_S)


def _rendered(job_id: str, event: Event) -> bytes:
    document = orjson.dumps(event_document(job_id, event))
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.id, event.kind.encode(), document)
