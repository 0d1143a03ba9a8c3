"""Errors in the form of the protocol that the request came by. The only place that knows all three forms.

| paths | form | media type |
|---|---|---|
| `/v2...` | `{"error": "..."}` with `code`, `field`, `request_id` beside it | `application/json`, kserve compares |
| `/v1/embeddings`, `/v1/models...` | OpenAI's `{"error": {"message", "type", "param", "code"}}` | `application/json` |
| `/v1/fine_tuning...` | the same | |
| all others | problem details, RFC 9457 | `application/problem+json` |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from batchd_server.errors import ServingError, Unavailable

DEFAULT_RETRY_AFTER_S = 1.0
_RETRYABLE = {429, 503}
_OPENAI_PATHS = ("/v1/embeddings", "/v1/models", "/v1/fine_tuning")
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def error_response(
    error: ServingError,
    path: str,
    request_id: str,
    *,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
    beside: Mapping[str, Any] | None = None,
) -> Response:
    """Render `error` for a request to `path`.

    `status` overrides the error's own where HTTP's router decided it. `beside` is what else a `/v2` answer tells.
    """
    status = error.status if status is None else status
    retry_headers, retry_after_ms = _retry(error, status)
    document: dict[str, Any]
    media_type = "application/json"
    if _under(path, "/v2"):
        document = {"error": _with_field(error), "code": error.code, "request_id": request_id, **(beside or {})}
        if error.field is not None:
            document["field"] = error.field
        if retry_after_ms is not None:
            document["retry_after_ms"] = retry_after_ms
    elif any(_under(path, prefix) for prefix in _OPENAI_PATHS):
        default_type = "invalid_request_error" if status < 500 else "server_error"
        kind = _OPENAI_TYPES.get(status, default_type)
        document = {"error": {"message": error.message, "type": kind, "param": error.field, "code": error.code}}
    else:
        media_type = "application/problem+json"
        document = {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": error.message,
            "code": error.code,
            "request_id": request_id,
        }
        if error.field is not None:
            document["field"] = error.field
    return Response(
        orjson.dumps(document), status_code=status, media_type=media_type, headers={**retry_headers, **(headers or {})}
    )


def not_ready_response(request: Request, reason: str, **beside: object) -> Response:
    """Answer a question for readiness with no: an error as any other, and what the protocol tells `beside` it."""
    refusal = Unavailable(reason)
    return error_response(refusal, request.url.path, request.state.request_id, beside={"ready": False, **beside})


async def render_serving_error(request: Request, error: Exception) -> Response:
    """Answer a `ServingError` that a route raised."""
    assert isinstance(error, ServingError)
    return error_response(error, request.url.path, request.state.request_id)


async def render_http_exception(request: Request, error: Exception) -> Response:
    """Answer what the router refuses (unknown path, wrong method) in the same forms."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    message = {404: f"there is nothing at {path}", 405: f"{request.method} is not allowed at {path}"}.get(
        error.status_code, str(error.detail)
    )
    refusal = ServingError(message, code=HTTPStatus(error.status_code).name.lower())
    return error_response(refusal, path, request.state.request_id, status=error.status_code, headers=error.headers)


async def render_validation_error(request: Request, error: Exception) -> Response:
    """Answer what FastAPI's own validation refuses, as 400 and naming the first field."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first.get("loc", ()))
    refusal = ServingError(f"{field}: {first.get('msg', 'not valid')}", field=field, code="bad_request")
    return error_response(refusal, request.url.path, request.state.request_id, status=400)


def _retry(error: ServingError, status: int) -> tuple[dict[str, str], int | None]:
    """Say when to come back, or that coming back is in vain (`x-should-retry`, which OpenAI's clients obey)."""
    seconds = error.retry_after_s
    if seconds is None and status in _RETRYABLE and error.code != "deadline_infeasible":
        seconds = DEFAULT_RETRY_AFTER_S
    if seconds is not None and status in _RETRYABLE:
        milliseconds = max(1, math.ceil(seconds * 1e3))
        return {"retry-after": str(max(1, math.ceil(seconds))), "retry-after-ms": str(milliseconds)}, milliseconds
    return ({"x-should-retry": "false"} if error.code != ServingError.code else {}), None


def _with_field(error: ServingError) -> str:
    """The message with its field: tritonclient and kserve show a user nothing else of the answer."""
    if error.field is None or error.field.lower() in error.message.lower():
        return error.message
    return f"{error.field}: {error.message}"


def _under(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix + "/")
