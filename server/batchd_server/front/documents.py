"""JSON documents in and out of request and response, and their part of the OpenAPI description."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from starlette.responses import Response

from batchd_server.errors import BadRequest

_PATH_PARAMETER = re.compile(r"{(\w+)}")


def json_response(document: object) -> Response:
    """Return `document` as `application/json`, exactly so: kserve's client compares the media type."""
    return Response(orjson.dumps(document), media_type="application/json")


def json_object(body: bytes | memoryview) -> dict[str, Any]:
    """Return the JSON object that `body` holds.

    Raises:
        BadRequest: not UTF-8, not JSON, nested beyond 1024 levels, or not an object.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not valid JSON: {error}", field="body") from error
    if type(document) is not dict:
        raise BadRequest("the body must be a JSON object", field="body")
    return document


def openapi(
    path: str,
    *,
    body: dict[str, Any] | None = None,
    answer: dict[str, Any] | None = None,
    headers: Mapping[str, dict[str, Any]] | None = None,
    binary: bool = False,
    status: int = 200,
    media_type: str = "application/json",
    errors: Sequence[int] = (),
) -> dict[str, Any]:
    """Return the `openapi_extra` of a raw route: its path parameters, headers, body and answer.

    `headers` maps names to schemas. The body may be left out where its schema requires nothing. `errors` are the
    statuses that are this route's own; `error_description.py` adds those that any route has.
    """
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PATH_PARAMETER.findall(path)
    ]
    parameters += [
        {"name": name, "in": "header", "required": False, "schema": schema} for name, schema in (headers or {}).items()
    ]
    octets = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}} if binary else {}
    extra: dict[str, Any] = {"parameters": parameters}
    if body is not None:
        content = {"application/json": {"schema": body}, **octets}
        extra["requestBody"] = {"required": "required" in body, "content": content}
    success: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if status != HTTPStatus.NO_CONTENT:
        success["content"] = {media_type: {"schema": answer or {"type": "object"}}, **octets}
    extra["responses"] = {str(status): success, **{str(error): {} for error in errors}}
    return extra
