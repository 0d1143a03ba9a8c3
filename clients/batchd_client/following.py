"""A job's events over as many connections as it takes, without I/O.

The drivers in client.py and async_client.py hold one connection at a time:

    send()                   -> Send             open this stream
    opened(headers)                              it is one
    received(chunk)          -> list[JobEvent]
    closed(now) | refused(answer, now) | failed(failure, now)
                                                 all of them raise where there is no point in another connection

and training.py, training_async.py connect again after `pause_s`, until the job is over.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace

from batchd_client.error_answers import read_error
from batchd_client.errors import BatchdError, ConnectionFailed, ProtocolError
from batchd_client.event_parser import EventParser, ServerSentEvent
from batchd_client.exchange import CallSettings, Failure, FailureKind, Send, fresh_request_id
from batchd_client.training_records import FINAL_STATUSES, JobEvent, parse_event
from batchd_client.wire import Answer, EncodedRequest, find_header

PATIENCE_S = 120.0


class Following:
    """Which events have come, and whether and when to ask for more. Times are monotonic seconds."""

    def __init__(self, path: str, settings: CallSettings, *, after: int, patience_s: float) -> None:
        """Follow the stream at `path` from the event behind `after`; give up after `patience_s` without a word."""
        self._path = path
        self._settings = settings
        self._policy = replace(settings.retry, max_attempts=sys.maxsize)  # it is time that runs out, not attempts
        self._patience_s = patience_s
        self._parser = EventParser()
        self._last_id = str(after)
        self._trouble_since: float | None = None
        self._attempts = 0
        self._came = False
        self.finished = False
        """Whether the job's last event has come."""
        self.silent = False
        """Whether the last connection was closed in order, without an event: the job may be over."""
        self.pause_s = 0.0
        """How long to wait before the next connection."""

    def send(self) -> Send:
        """Return the next connection's request."""
        self._came = False
        self.silent = False
        headers = {
            **self._settings.headers,
            "accept": "text/event-stream",
            "cache-control": "no-store",
            "last-event-id": self._last_id,
            "x-request-id": fresh_request_id(),
        }
        request = EncodedRequest(method="GET", path=self._path, headers=headers)
        return Send(request=request, wait_s=self._settings.read_timeout_s)

    def opened(self, headers: Mapping[str, str]) -> None:
        """Take the news that the server sends.

        Raises:
            ProtocolError: it does not send events.
        """
        kind = find_header(headers, "content-type") or "nothing"
        if kind.partition(";")[0].strip().lower() != "text/event-stream":
            raise ProtocolError(f"{self._path} answers with {kind}, not with events")
        self._parser = EventParser(self._last_id)

    def received(self, chunk: bytes) -> list[JobEvent]:
        """Take bytes of the stream, and return the events that they complete.

        Raises:
            ProtocolError: an event cannot be understood.
        """
        self._trouble_since = None
        return [self._event(event) for event in self._parser.feed(chunk)]

    def _event(self, event: ServerSentEvent) -> JobEvent:
        parsed = parse_event(event.id, event.kind, event.data)
        self._last_id = event.id
        self._attempts = 0
        self._came = True
        self.finished = self.finished or parsed.kind in FINAL_STATUSES
        return parsed

    def closed(self, now: float) -> None:
        """Take the news that the server has ended the stream in order.

        Raises:
            ConnectionFailed: it has done nothing else for too long.
        """
        self.silent = not self._came
        self._again(now, ConnectionFailed(f"{self._path}: the stream ends, and the job does not"), self._parser.retry_s)

    def refused(self, answer: Answer, now: float) -> None:
        """Take an answer that is no stream.

        Raises:
            ServerError: there is no point in asking again.
            ProtocolError: it is no answer of the server's.
        """
        if answer.status < 400:
            raise ProtocolError(f"status {answer.status} instead of events: is the base URL right?")
        error = read_error(answer)
        if answer.header("x-should-retry") == "false" or answer.status not in self._policy.statuses:
            raise error
        self._again(now, error, error.retry_after_s)

    def failed(self, failure: Failure, now: float) -> None:
        """Take the news that there is no connection, or that it broke.

        Raises:
            ConnectionFailed: there has been none for too long.
            ProtocolError: the server does not speak HTTP.
        """
        match failure.kind:
            case FailureKind.REFUSED:
                raise ConnectionFailed(failure.message)
            case FailureKind.GARBLED:
                raise ProtocolError(failure.message)
            case FailureKind.LOST | FailureKind.TIMED_OUT:
                self._again(now, ConnectionFailed(failure.message), self._parser.retry_s)

    def _again(self, now: float, error: BatchdError, asked_s: float | None) -> None:
        self._attempts += 1
        if self._trouble_since is None:
            self._trouble_since = now
        left_s = self._trouble_since + self._patience_s - now
        pause_s = self._policy.pause_s(self._attempts, asked_s=asked_s, left_s=left_s)
        if pause_s is None:
            raise error
        self.pause_s = pause_s
