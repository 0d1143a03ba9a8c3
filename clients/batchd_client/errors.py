"""Everything that a call can raise, beside ValueError for arguments that can never be sent.

    BatchdError
      ConnectionFailed            no connection, or it broke before an answer was there
      ProtocolError               the server's answer cannot be understood
      DeadlineExceeded            the call's time ran out
      ServerError                 the server answered with an error status
        BadRequest                400, 422   names the field where the server does
        Unauthorized              401
        Forbidden                 403
        NotFound                  404        unknown model, version or resource
        TooLarge                  413
        Overloaded                429        carries retry_after_s
        ServerFailed              500 and other 5xx
        Unavailable               503        carries retry_after_s
        DeadlineExceededOnServer  504        is a DeadlineExceeded too
        InsufficientMemory        507

Status codes without a class of their own (405, 409, 415, ...) are plain ServerErrors.
"""

from __future__ import annotations

from functools import partial
from typing import Any


class BatchdError(Exception):
    """Root of everything that this library raises about a call."""


class ConnectionFailed(BatchdError):
    """No connection could be made, or it broke before an answer was there."""


class ProtocolError(BatchdError):
    """The server's answer cannot be understood."""


class DeadlineExceeded(BatchdError):
    """The call's time ran out, retries included."""


class ServerError(BatchdError):
    """The server answered with an error status."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        field: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.field = field
        self.request_id = request_id
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        known = {"code": self.code, "field": self.field, "request": self.request_id}
        details = "".join(f", {name} {value}" for name, value in known.items() if value is not None)
        return f"{self.message} (status {self.status}{details})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are unpickled by calling the class with `args`, which cannot carry keywords: load tests in several
        # processes would otherwise fail on the way back.
        rebuild = partial(
            type(self),
            self.message,
            status=self.status,
            code=self.code,
            field=self.field,
            request_id=self.request_id,
            retry_after_s=self.retry_after_s,
        )
        return rebuild, ()


class BadRequest(ServerError):
    """The server cannot understand the request."""


class Unauthorized(ServerError):
    """No API key, or an unknown one."""


class Forbidden(ServerError):
    """The API key does not cover this."""


class NotFound(ServerError):
    """Unknown model, version or resource."""


class TooLarge(ServerError):
    """Over a limit that waiting does not change."""


class Overloaded(ServerError):
    """The queue is full, or the answer would be late behind it."""


class ServerFailed(ServerError):
    """The model or the server failed on this request."""


class Unavailable(ServerError):
    """Not now: starting, draining, or the model is not loaded."""


class DeadlineExceededOnServer(ServerError, DeadlineExceeded):
    """The server gave the request up when its deadline had passed."""


class InsufficientMemory(ServerError):
    """One item alone does not fit in the device's memory."""


_BY_STATUS: dict[int, type[ServerError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    413: TooLarge,
    422: BadRequest,
    429: Overloaded,
    503: Unavailable,
    504: DeadlineExceededOnServer,
    507: InsufficientMemory,
}


def error_class(status: int) -> type[ServerError]:
    """Return the class that stands for an error status."""
    return _BY_STATUS.get(status, ServerFailed if status >= 500 else ServerError)
