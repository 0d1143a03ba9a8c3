"""Query parameters and JSON bodies of the training routes, checked."""

from __future__ import annotations

from typing import Any

import orjson
from pydantic import ValidationError
from starlette.requests import Request

from batchd_server.errors import BadRequest, TooLarge, Unprocessable
from batchd_server.front.documents import json_object
from batchd_server.front.service import Front
from batchd_server.training.job_spec import JobSpec

MAX_NUMBER = 2**53
MAX_JOB_BYTES = 2**18


def whole_number(request: Request, name: str, default: int, *, least: int = 0, most: int = MAX_NUMBER) -> int:
    """Return a query parameter.

    Raises:
        BadRequest: it is not a whole number within the limits.
    """
    given = request.query_params.get(name)
    return default if given is None else number_in(given, name, least, most)


def number_in(given: str, name: str, least: int, most: int) -> int:
    """Return a number that came as text.

    Raises:
        BadRequest: it is not a whole number within the limits.
    """
    digits = given.isascii() and given.isdigit() and len(given) <= len(str(most))
    if not (digits and least <= int(given) <= most):
        raise BadRequest(f"{name} must be a whole number from {least} to {most}, got {given[:20]!r}", field=name)
    return int(given)


async def job_object(front: Front, request: Request) -> dict[str, Any]:
    """Return the JSON object that describes a job.

    Raises:
        BadRequest: it is none.
        TooLarge: longer than `MAX_JOB_BYTES`.
    """
    body = await front.body(request)
    if len(body) > MAX_JOB_BYTES:
        raise TooLarge(f"a job's JSON is at most {MAX_JOB_BYTES} bytes", field="body")
    return json_object(body)


def job_spec(document: dict[str, Any]) -> JobSpec:
    """Read a job.

    Raises:
        Unprocessable: names the first field that is wrong.
    """
    try:
        return JobSpec.model_validate_json(orjson.dumps(document), strict=True)  # "3" and true are no numbers
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"] if part not in ("NamedSpec", "str")) or "body"
        raise Unprocessable(f"{place}: {first['msg'].removeprefix('Value error, ')}", field=place) from error


def query_documentation(**numbers: tuple[int, int, int]) -> list[dict[str, Any]]:
    """Describe whole numbers in a query, each by default, least and most, for OpenAPI."""
    return [
        {
            "name": name,
            "in": "query",
            "schema": {"type": "integer", "default": default, "minimum": least, "maximum": most},
        }
        for name, (default, least, most) in numbers.items()
    ]
