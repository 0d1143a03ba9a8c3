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
from enum import StrEnum
from http import HTTPStatus
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from batchd_server.errors import RequestTimeout, ServingError, Unavailable
from batchd_server.front.request_log import note_error

DEFAULT_RETRY_AFTER_S = 1.0
RETRYABLE = frozenset({429, 503})
_OPENAI_PATHS = ("/v1/embeddings", "/v1/models", "/v1/fine_tuning")
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ErrorForm(StrEnum):
    """The forms of the table above, by the names of their schemas in the OpenAPI description."""

    INFERENCE_PROTOCOL = "InferenceError"
    OPENAI = "OpenAIError"
    PROBLEM = "Problem"

    @property
    def media_type(self) -> str:
        """What errors of this form are sent as."""
        return "application/problem+json" if self is ErrorForm.PROBLEM else "application/json"


def form_of(path: str) -> ErrorForm:
    """Return the form in which a request to `path` is told what is wrong."""
    if _under(path, "/v2"):
        return ErrorForm.INFERENCE_PROTOCOL
    return ErrorForm.OPENAI if any(_under(path, prefix) for prefix in _OPENAI_PATHS) else ErrorForm.PROBLEM


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
    form = form_of(path)
    if form is ErrorForm.INFERENCE_PROTOCOL:
        document = {"error": _with_field(error), "code": error.code, "request_id": request_id, **(beside or {})}
        if error.field is not None:
            document["field"] = error.field
        if retry_after_ms is not None:
            document["retry_after_ms"] = retry_after_ms
    elif form is ErrorForm.OPENAI:
        default_type = "invalid_request_error" if status < 500 else "server_error"
        kind = _OPENAI_TYPES.get(status, default_type)
        document = {"error": {"message": error.message, "type": kind, "param": error.field, "code": error.code}}
    else:
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
    headers = {**retry_headers, **(headers or {})}
    return Response(orjson.dumps(document), status_code=status, media_type=form.media_type, headers=headers)


def not_ready_response(request: Request, reason: str | Unavailable, **beside: object) -> Response:
    """Answer a question for readiness with no: an error as any other, and what the protocol tells `beside` it."""
    refusal = reason if isinstance(reason, Unavailable) else Unavailable(reason)
    note_error(request.scope, refusal, expected=True)
    return error_response(refusal, request.url.path, request.state.request_id, beside={"ready": False, **beside})


async def render_serving_error(request: Request, error: Exception) -> Response:
    """Answer a `ServingError` that a route raised."""
    assert isinstance(error, ServingError)
    note_error(request.scope, error)
    return error_response(error, request.url.path, request.state.request_id)


async def render_http_exception(request: Request, error: Exception) -> Response:
    """Answer what the router refuses (unknown path, wrong method) in the same forms."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    message = {404: f"there is nothing at {path}", 405: f"{request.method} is not allowed at {path}"}.get(
        error.status_code, str(error.detail)
    )
    refusal = ServingError(message, code=HTTPStatus(error.status_code).name.lower())
    headers = error.headers
    if error.status_code == 405:
        headers = {**(headers or {}), "allow": ", ".join(sorted(_allowed(request)))}
    return error_response(refusal, path, request.state.request_id, status=error.status_code, headers=headers)


def _allowed(request: Request) -> set[str]:
    """Return the methods of all routes of a path; the one that refused knows only its own."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    found = {method for route in routes if route.path_regex.match(request.url.path) for method in (route.methods or ())}
    return found | {"HEAD"} if "GET" in found else found


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
    if seconds is None and status in RETRYABLE and error.code != "deadline_infeasible":
        seconds = DEFAULT_RETRY_AFTER_S
    if seconds is not None and status in RETRYABLE:
        milliseconds = max(1, math.ceil(seconds * 1e3))
        return {"retry-after": str(max(1, math.ceil(seconds))), "retry-after-ms": str(milliseconds)}, milliseconds
    may_help = error.code in (ServingError.code, RequestTimeout.code)
    return ({} if may_help else {"x-should-retry": "false"}), None


def _with_field(error: ServingError) -> str:
    """The message with its field: tritonclient and kserve show a user nothing else of the answer."""
    if error.field is None or error.field.lower() in error.message.lower():
        return error.message
    return f"{error.field}: {error.message}"


def _under(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix + "/")
