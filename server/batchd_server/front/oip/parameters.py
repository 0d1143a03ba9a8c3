"""The `parameters` objects of a request: typed reads that name what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchd_server.errors import BadRequest

LARGEST_INT = 2**63 - 1


def parameters_of(holder: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """Return the `parameters` of a request, input or output; empty where it has none.

    Raises:
        BadRequest: not an object.
    """
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise BadRequest("parameters must be an object", field=f"{field}parameters")
    return parameters


def flag(parameters: Mapping[str, Any], name: str, field: str) -> bool | None:
    """Return a boolean parameter; None where it is not given.

    Raises:
        BadRequest: not true or false.
    """
    value = parameters.get(name)
    if value is not None and type(value) is not bool:
        raise BadRequest(f"{name} must be true or false", field=f"{field}parameters.{name}")
    return value


def count(parameters: Mapping[str, Any], name: str, field: str, *, highest: int = LARGEST_INT) -> int | None:
    """Return an integer parameter from 0 to `highest`; None where it is not given.

    Raises:
        BadRequest: not an integer, or out of that range.
    """
    value = parameters.get(name)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= highest:
        limit = "" if highest == LARGEST_INT else f" to {highest}"
        raise BadRequest(f"{name} must be an integer from 0{limit or ' on'}", field=f"{field}parameters.{name}")
    return value
