"""Parameters of schedules and rules: dataclass fields that carry their range, checked once, and told as JSON schema."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# values come from JSON, annotations from a class
from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """An interval of numbers, in an annotation: `Annotated[float, Range(above=0, at_most=1)]`."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            abs(value) <= sys.float_info.max
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        low = f"[{self.at_least:g}" if self.at_least is not None else f"({_or_infinite(self.above, '-')}"
        high = f"{self.at_most:g}]" if self.at_most is not None else f"{_or_infinite(self.below, '')})"
        return f"{low}, {high}"


Share = Annotated[float, Range(above=0, at_most=1)]
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(at_least=0)]
Growth = Annotated[float, Range(above=1, at_most=16)]
Count = Annotated[int, Range(at_least=1)]


def check(instance: Any) -> None:
    """Compare every field of a dataclass with its annotation: type, choices and range.

    Raises:
        ValueError: names the field, what is allowed, and what was given.
    """
    cls: type = type(instance)
    for name, hint in _parameters(cls).items():
        value = getattr(instance, name)
        allowed = _allowed(hint)
        if not _fits(value, hint):
            raise ValueError(f"{name} must be {allowed}, got {value!r}")


def build(cls: type[Made], name: str, parameters: Mapping[str, Any], **fixed: Any) -> Made:
    """Make a `cls` of parameters that came as JSON, and of `fixed` arguments that did not.

    Raises:
        ValueError: a parameter that `cls` does not have (lists those it has), or a value out of range.
    """
    hints = {key: hint for key, hint in _parameters(cls).items() if key not in fixed}
    unknown = sorted(set(parameters) - set(hints))
    if unknown:
        listed = ", ".join(hints) or "none"
        raise ValueError(f"{name} has no parameter {unknown[0]!r}; its parameters: {listed}")
    given = {key: _frozen(value) for key, value in parameters.items()}
    try:
        return cls(**given, **fixed)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def json_schema(cls: type, *, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Describe the parameters of `cls`, defaults included, as a JSON schema of one object."""
    defaults = {entry.name: entry.default for entry in fields(cls)}
    properties = {
        name: {**_schema(hint), "default": defaults[name]}
        for name, hint in _parameters(cls).items()
        if name not in without
    }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _parameters(cls: type) -> dict[str, Any]:
    """The annotations of what a caller may set, in order of definition."""
    hints = get_type_hints(cls, include_extras=True)
    return {entry.name: hints[entry.name] for entry in fields(cls) if entry.init}


def _frozen(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    parts: list[Any] = value
    return tuple(_frozen(part) for part in parts)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in {Union, types.UnionType} else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    return any(_fits_one(value, alternative) for alternative in _alternatives(hint))


def _fits_one(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin is Annotated:
        kind, *limits = get_args(hint)
        return _fits(value, kind) and all(value in limit for limit in limits)
    if origin is Literal:
        return value in get_args(hint)
    if origin is tuple:
        parts: tuple[Any, ...] = value if isinstance(value, tuple) else (None,)
        return all(_fits(part, get_args(hint)[0]) for part in parts)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _allowed(hint: Any) -> str:
    return " or ".join(_allowed_one(alternative) for alternative in _alternatives(hint))


def _allowed_one(hint: Any) -> str:
    origin = get_origin(hint)
    if origin is Annotated:
        kind, limit = get_args(hint)
        return f"{_allowed_one(kind)} in {limit}"
    if origin is Literal:
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    if origin is tuple:
        return f"a list, each {_allowed_one(get_args(hint)[0])}"
    return {float: "a finite number", int: "an integer", bool: "true or false", types.NoneType: "null"}.get(
        hint, str(hint)
    )


def _schema(hint: Any) -> dict[str, Any]:
    alternatives = _alternatives(hint)
    if len(alternatives) > 1:
        return {"anyOf": [_schema(alternative) for alternative in alternatives]}
    origin = get_origin(hint)
    if origin is Annotated:
        kind, limit = get_args(hint)
        return {**_schema(kind), **_limits(limit)}
    if origin is Literal:
        return {"enum": list(get_args(hint))}
    if origin is tuple:
        return {"type": "array", "items": _schema(get_args(hint)[0])}
    return {"type": {float: "number", int: "integer", bool: "boolean", types.NoneType: "null"}[hint]}


def _limits(limit: Range) -> dict[str, float]:
    named = {
        "minimum": limit.at_least,
        "exclusiveMinimum": limit.above,
        "maximum": limit.at_most,
        "exclusiveMaximum": limit.below,
    }
    return {key: value for key, value in named.items() if value is not None}


def _or_infinite(end: float | None, sign: str) -> str:
    return f"{sign}inf" if end is None else f"{end:g}"
