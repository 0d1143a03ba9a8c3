"""The part of the OpenAPI description that tells how each route fails: the one place that declares common errors.

A route names in `openapi(..., errors=...)` only what is its own. What any request may meet, or any with a body, a name
in its path or a key, is added here, and every error gets the form of its family.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI

from batchd_server.front.error_responses import RETRYABLE, ErrorForm, form_of

ANY_REQUEST = (400, 408, 431, 500, 503)
"""Malformed or too slow, too large a head, a defect, and not now."""
WITH_BODY = (413, 415)
WITH_NAME = (404,)
WITH_KEY = (401, 403)

_TEXT = {"type": "string"}
_OPTIONAL_TEXT = {"type": ["string", "null"]}
_SCHEMAS: dict[ErrorForm, dict[str, Any]] = {
    ErrorForm.INFERENCE_PROTOCOL: {
        "type": "object",
        "required": ["error", "code", "request_id"],
        "properties": {
            "error": _TEXT,
            "code": _TEXT,
            "request_id": _TEXT,
            "field": _TEXT,
            "retry_after_ms": {"type": "integer", "minimum": 1},
        },
    },
    ErrorForm.OPENAI: {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {"message": _TEXT, "type": _TEXT, "param": _OPTIONAL_TEXT, "code": _OPTIONAL_TEXT},
            }
        },
    },
    ErrorForm.PROBLEM: {
        "type": "object",
        "required": ["type", "title", "status", "detail", "code", "request_id"],
        "properties": {
            "type": _TEXT,
            "title": _TEXT,
            "status": {"type": "integer"},
            "detail": _TEXT,
            "code": _TEXT,
            "request_id": _TEXT,
            "field": _TEXT,
        },
    },
}
_REQUEST_ID = {"X-Request-Id": {"required": True, "description": "As in the log.", "schema": _TEXT}}
_POSITIVE = {"type": "integer", "minimum": 1}
_RETRY_AFTER = {
    "Retry-After": {"description": "Seconds.", "schema": _POSITIVE},
    "Retry-After-Ms": {"description": "Milliseconds.", "schema": _POSITIVE},
}


def describe_errors(app: FastAPI) -> None:
    """Have the description of `app` tell the errors of every route, and the headers that all answers have."""
    describe = app.openapi

    def with_errors() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        document = describe()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update({form.value: schema for form, schema in _SCHEMAS.items()})
        for path, operations in document["paths"].items():
            for operation in operations.values():
                _complete(path, operation)
        return document

    app.openapi = with_errors  # type: ignore[method-assign]


def _complete(path: str, operation: dict[str, Any]) -> None:
    """Add what the route need not say itself."""
    common = {
        *ANY_REQUEST,
        *(WITH_BODY if "requestBody" in operation else ()),
        *(WITH_NAME if "{" in path else ()),
        *(WITH_KEY if operation.get("security") else ()),
    }
    responses: dict[str, Any] = operation["responses"]
    own = {int(status) for status in responses if int(status) >= 400}
    form = form_of(path)
    for status in common | own:
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {form.media_type: {"schema": {"$ref": f"#/components/schemas/{form.value}"}}},
            "headers": _RETRY_AFTER if status in RETRYABLE else {},
        }
    operation["responses"] = {status: responses[status] for status in sorted(responses)}
    for response in responses.values():
        response["headers"] = {**_REQUEST_ID, **response.get("headers", {})}
