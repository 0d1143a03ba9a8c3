"""One call from first attempt to result, without I/O: what to send, for how long to wait, whether to try again.

The drivers in client.py and async_client.py loop over an `Exchange`:

    send(now)              -> Send            perform it, then tell how it went
    answered(answer, now)  -> Done | Pause    Done ends the call, after a Pause comes the next send
    failed(failure, now)   -> Done | Pause

All of them raise where the call has failed for good.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Generic, TypeVar, assert_never

from batchd_client.error_answers import read_error
from batchd_client.errors import BatchdError, ConnectionFailed, DeadlineExceeded, ProtocolError
from batchd_client.retry import RetryPolicy
from batchd_client.wire import Answer, EncodedRequest, checked_timeout

T = TypeVar("T")

GRACE_S = 0.5
"""Waited beyond the deadline, so that the server's own 504 with its reason arrives."""


def fresh_request_id() -> str:
    """Return an id that nothing else has."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One thing to ask of the server, and how to read the answer.

    Raises:
        ValueError: the timeout is not positive.
    """

    render: Callable[[float | None], EncodedRequest]
    """Makes the request, given the seconds left to the deadline."""
    parse: Callable[[Answer], T]
    timeout_s: float | None = None
    request_id: str = field(default_factory=fresh_request_id)
    error_statuses: frozenset[int] = frozenset()
    """Error statuses that `parse` understands."""
    unreachable: Done[T] | None = None
    """The result where no answer can be had; None = an error. Such a call is tried once."""
    repeatable: bool = True
    """Whether it may be sent again when it is not known if the server has done it."""

    def __post_init__(self) -> None:
        checked_timeout(self.timeout_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSettings:
    """What all calls of a client share."""

    base_url: str
    headers: Mapping[str, str] = field(repr=False)  # the key is among them
    retry: RetryPolicy
    read_timeout_s: float | None
    """How long a silent server is waited for where a call has no deadline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Perform this request; give up once `wait_s` have passed (None = never)."""

    request: EncodedRequest
    wait_s: float | None


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait, then send again."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """The call's result."""

    value: T


class FailureKind(Enum):
    """Why no answer came."""

    LOST = "no connection, or it broke"
    TIMED_OUT = "no answer in the time given"
    REFUSED = "the request cannot be sent this way"
    GARBLED = "the answer is no HTTP"


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that ended without an answer."""

    kind: FailureKind
    message: str


class Exchange(Generic[T]):
    """The attempts of one call. Times are monotonic seconds."""

    def __init__(self, call: Call[T], settings: CallSettings, now: float) -> None:
        self._call = call
        self._settings = settings
        self._deadline = None if call.timeout_s is None else now + call.timeout_s
        self._attempts = 0

    def send(self, now: float) -> Send:
        """Return the next attempt.

        Raises:
            DeadlineExceeded: no time is left for it.
        """
        left_s = self._left_s(now)
        if left_s is not None and left_s <= 0:
            raise self._late()
        self._attempts += 1
        request = self._call.render(left_s)
        headers = {**self._settings.headers, "x-request-id": self._call.request_id, **request.headers}
        return Send(
            request=replace(request, headers=headers),
            wait_s=self._settings.read_timeout_s if left_s is None else left_s + GRACE_S,
        )

    def answered(self, answer: Answer, now: float) -> Done[T] | Pause:
        """Take the answer to the last attempt.

        Raises:
            ServerError: it is an error, and there is no point or no time in trying again.
            ProtocolError: it cannot be understood.
        """
        if answer.ok or answer.status in self._call.error_statuses:
            return Done(self._call.parse(answer))
        if answer.status < 400:
            target = answer.header("location") or "elsewhere"
            raise ProtocolError(f"status {answer.status} leads to {target!r}: is the base URL right?")
        error = read_error(answer)
        may_retry = answer.header("x-should-retry") != "false" and answer.status in self._settings.retry.statuses
        if not may_retry:
            raise error
        return self._again(now, error, error.retry_after_s)

    def failed(self, failure: Failure, now: float) -> Done[T] | Pause:
        """Take the news that the last attempt ended without an answer.

        Raises:
            DeadlineExceeded: it took all the time there was.
            ConnectionFailed: there is no point or no time in trying again.
            ProtocolError: the server does not speak HTTP.
        """
        if self._call.unreachable is not None and failure.kind is not FailureKind.REFUSED:
            return self._call.unreachable
        match failure.kind:
            case FailureKind.LOST if self._call.repeatable:
                return self._again(now, ConnectionFailed(self._with_attempts(failure.message)), None)
            case FailureKind.TIMED_OUT:
                raise ConnectionFailed(failure.message) if self._deadline is None else self._late()
            case FailureKind.LOST | FailureKind.REFUSED:
                raise ConnectionFailed(failure.message)
            case FailureKind.GARBLED:
                raise ProtocolError(failure.message)
            case _:
                assert_never(failure.kind)

    def _again(self, now: float, error: BatchdError, asked_s: float | None) -> Pause:
        pause_s = self._settings.retry.pause_s(self._attempts, asked_s=asked_s, left_s=self._left_s(now))
        if pause_s is None:
            raise error
        return Pause(pause_s)

    def _left_s(self, now: float) -> float | None:
        return None if self._deadline is None else self._deadline - now

    def _late(self) -> DeadlineExceeded:
        return DeadlineExceeded(self._with_attempts(f"no answer within {self._call.timeout_s} s"))

    def _with_attempts(self, message: str) -> str:
        return f"{message} (request {self._call.request_id}, attempts: {self._attempts})"
