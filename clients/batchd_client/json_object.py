"""Reads the server's JSON with the types that the protocols promise; anything else is a ProtocolError."""

from __future__ import annotations

import json
from typing import Any, TypeAlias, TypeGuard, TypeVar

from batchd_client.errors import ProtocolError

JsonObject: TypeAlias = dict[str, Any]
T = TypeVar("T", str, int, bool, float)

_EXCERPT_CHARS = 200


def parse_json(body: bytes) -> Any:
    """Parse a JSON text.

    Raises:
        ProtocolError: it is none.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the answer is not JSON ({error}): {excerpt(body)}") from None


def parse_object(body: bytes) -> JsonObject:
    """Parse a JSON object.

    Raises:
        ProtocolError: it is none.
    """
    return as_object(parse_json(body), "the answer")


def _is_object(value: Any) -> TypeGuard[JsonObject]:
    return isinstance(value, dict)


def _is_array(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def as_object(value: Any, what: str) -> JsonObject:
    """Return `value` as a JSON object.

    Raises:
        ProtocolError: it is none.
    """
    if not _is_object(value):
        raise ProtocolError(f"{what} is not a JSON object")
    return value


def as_list(value: Any, what: str) -> list[Any]:
    """Return `value` as a JSON array.

    Raises:
        ProtocolError: it is none.
    """
    if not _is_array(value):
        raise ProtocolError(f"{what} is not a JSON array")
    return value


def member(source: JsonObject, name: str, kind: type[T], what: str) -> T:
    """Return a member that must be there.

    Raises:
        ProtocolError: it is missing or of another type.
    """
    value = optional_member(source, name, kind, what)
    if value is None:
        raise ProtocolError(f"{what} has no {name!r}")
    return value


def optional_member(source: JsonObject, name: str, kind: type[T], what: str) -> T | None:
    """Return a member that may be missing or null.

    Raises:
        ProtocolError: it is of another type.
    """
    value: Any = source.get(name)
    # Exact types: JSON's true is no number, though Python's bool is an int.
    if value is not None and type(value) is not kind:
        raise ProtocolError(f"{what}: {name!r} is not of type {kind.__name__}")
    return value


def excerpt(body: bytes) -> str:
    """Return the beginning of a body, fit for a message."""
    text = body[:_EXCERPT_CHARS].decode("utf-8", "replace")
    return repr(text) + ("..." if len(body) > _EXCERPT_CHARS else "")
