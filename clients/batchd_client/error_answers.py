"""Reads error responses, in whichever of the three dialects they come, as one kind of exception.

    /v2              {"error": "text", "code": ..., "field": ..., "request_id": ...}
    /v1/embeddings   {"error": {"message", "type", "param", "code"}}
    elsewhere        RFC 9457 {"type", "title", "status", "detail", "code"}

A proxy's page is none of them: then the status speaks, and the page's beginning is the message.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast

from batchd_client.errors import ServerError, error_class
from batchd_client.json_object import JsonObject, excerpt
from batchd_client.wire import Answer


def read_error(answer: Answer) -> ServerError:
    """Return the exception that an error answer stands for; it never fails on what the server wrote."""
    body = _object_or_empty(answer.body)
    error = body.get("error")
    details = cast(JsonObject, error) if isinstance(error, dict) else body
    return error_class(answer.status)(
        _message(error, details, answer),
        status=answer.status,
        code=_text(details, "code"),
        field=_text(details, "field") or _text(details, "param"),
        request_id=_text(body, "request_id") or answer.header("x-request-id"),
        retry_after_s=retry_after_s(answer),
    )


def retry_after_s(answer: Answer) -> float | None:
    """Return the pause that the server asks for: `retry-after-ms`, else `Retry-After` in seconds or as a date."""
    milliseconds = _number(answer.header("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = answer.header("retry-after")
    seconds = _number(text)
    if seconds is not None or text is None:
        return seconds
    then = _date(text)
    if then is None:
        return None
    # Against the server's own clock where it tells the time: the two clocks need not agree.
    now = _date(answer.header("date") or "") or datetime.fromtimestamp(answer.received, UTC)
    return max(0.0, (then - now).total_seconds())


def _object_or_empty(body: bytes) -> JsonObject:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return cast(JsonObject, value) if isinstance(value, dict) else {}


def _message(error: Any, details: JsonObject, answer: Answer) -> str:
    if isinstance(error, str) and error:
        return error
    for name in ("message", "detail", "title"):
        text = _text(details, name)
        if text:
            return text
    return excerpt(answer.body) if answer.body else "no reason given"


def _text(source: JsonObject, name: str) -> str | None:
    value: Any = source.get(name)
    return value if isinstance(value, str) else None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _date(text: str) -> datetime | None:
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)
