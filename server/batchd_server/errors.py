"""Everything that a client can be told about a request that was not served.

    ServingError
      BadRequest            400   the request cannot be understood; names the field
      Unauthorized          401
      Forbidden             403
      NotFound              404   unknown model, version or resource
      RequestTimeout        408   the request came too slowly
      Conflict              409   does not go with the resource's state
      TooLarge              413   body, item or batch over a limit
      UnsupportedEncoding   415
      Unprocessable         422   understood, but it cannot work; names the field
      QueueFull             429   + Retry-After
      DeadlineInfeasible    429   + Retry-After: would be late behind the present backlog
      HeadersTooLarge       431   request line and headers over a limit
      ModelFailed           500   the model raised, which affects nothing else; or ended the device process (`poison`)
      Unavailable           503   + Retry-After: starting, draining, model not loaded, device lost
      DeadlineExceeded      504
      InsufficientMemory    507   one item alone runs out of memory

HTTP status codes stand here and nowhere else; `batchd_server.front.error_responses` renders them in the form of the
protocol that the request came by.
"""

from __future__ import annotations

from typing import ClassVar


class ServingError(Exception):
    """A refusal or failure with a message for the client. Never carries a traceback or a path."""

    status: ClassVar[int] = 500
    code: str = "internal_error"

    def __init__(
        self, message: str, *, field: str | None = None, retry_after_s: float | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s
        if code is not None:
            self.code = code


class BadRequest(ServingError):
    """The request cannot be understood."""

    status = 400
    code = "bad_request"


class Unauthorized(ServingError):
    """No key, or an unknown one."""

    status = 401
    code = "unauthorized"


class Forbidden(ServingError):
    """The key's scopes do not cover this."""

    status = 403
    code = "forbidden"


class NotFound(ServingError):
    """Unknown model, version or resource."""

    status = 404
    code = "not_found"


class RequestTimeout(ServingError):
    """The request came too slowly, or not at all."""

    status = 408
    code = "request_timeout"


class Conflict(ServingError):
    """Does not go with the state that the resource is in."""

    status = 409
    code = "conflict"


class TooLarge(ServingError):
    """Over a limit that waiting does not change."""

    status = 413
    code = "too_large"


class UnsupportedEncoding(ServingError):
    """A content encoding or media type that is not taken."""

    status = 415
    code = "unsupported_encoding"


class Unprocessable(ServingError):
    """Understood, but what it describes cannot work."""

    status = 422
    code = "unprocessable"


class QueueFull(ServingError):
    """Too many items wait already."""

    status = 429
    code = "queue_full"


class DeadlineInfeasible(ServingError):
    """Behind the present backlog the answer would be late."""

    status = 429
    code = "deadline_infeasible"


class HeadersTooLarge(ServingError):
    """Request line and headers over the limit."""

    status = 431
    code = "headers_too_large"


class ModelFailed(ServingError):
    """The model raised on this batch or item."""

    status = 500
    code = "model_failed"


class Unavailable(ServingError):
    """Not now: starting, draining, unloaded, or the device was lost."""

    status = 503
    code = "unavailable"


class DeadlineExceeded(ServingError):
    """The deadline passed before an answer was there."""

    status = 504
    code = "deadline_exceeded"


class InsufficientMemory(ServingError):
    """One item alone does not fit in the device's memory."""

    status = 507
    code = "insufficient_memory"


ERROR_TYPES: dict[int, type[ServingError]] = {
    cls.status: cls
    for cls in (
        BadRequest,
        Unauthorized,
        Forbidden,
        NotFound,
        RequestTimeout,
        Conflict,
        TooLarge,
        UnsupportedEncoding,
        Unprocessable,
        QueueFull,
        HeadersTooLarge,
        ModelFailed,
        Unavailable,
        DeadlineExceeded,
        InsufficientMemory,
    )
}
"""For errors that crossed a process boundary as (status, code, message)."""
