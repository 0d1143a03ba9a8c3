"""The configuration from its sources. Strongest first: command line, environment, file, defaults."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource, SettingsError

from batchd_server.config.problems import ConfigError, Problem, unknown_key
from batchd_server.config.settings import Settings

ENV_PREFIX = "BATCHD_"
DELIMITER = "__"

Tree = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Override:
    """What one option of the command line says about one dotted key; None = nothing."""

    option: str
    key: str
    value: Any


def load_settings(path: Path | None = None, overrides: Sequence[Override] = ()) -> Settings:
    """Return the checked settings.

    Raises:
        ConfigError: with every problem that was found.
    """
    from_file = {} if path is None else _read(path)
    said = [override for override in overrides if override.value is not None]
    unknown = list(_unknown_variables())
    if unknown:
        raise ConfigError(unknown)
    try:
        from_environment: Tree = EnvSettingsSource(Settings)()
    except SettingsError as error:
        name = _variable_of_field(str(error))
        raise ConfigError([Problem(source=name, key="", message="must be JSON for a whole table or list")]) from None
    merged = _merge(_merge(from_file, from_environment), _nest({override.key: override.value for override in said}))
    try:
        return Settings(**merged)
    except ValidationError as error:
        raise ConfigError(
            Problem(
                source=_source(details["loc"], path, from_file, said),
                key=".".join(str(part) for part in details["loc"] if part != "[key]"),
                message=_message(details),
            )
            for details in error.errors(include_url=False)
        ) from None


def _read(path: Path) -> Tree:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        found = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", str(error))
        source = f"{path}:{found[2]}:{found[3]}" if found else str(path)
        reason = found[1] if found else str(error)
        raise ConfigError([Problem(source=source, key="", message=f"not valid TOML: {reason}")]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(source=str(path), key="", message=f"not UTF-8: {error.reason}")]) from None
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise ConfigError([Problem(source=str(path), key="", message=f"configuration file: {reason}")]) from None


def _nest(flat: Mapping[str, Any]) -> Tree:
    tree: Tree = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def _merge(weak: Tree, strong: Tree) -> Tree:
    merged = dict(weak)
    for key, value in strong.items():
        under = merged.get(key)
        merged[key] = _merge(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def _unknown_variables() -> Iterator[Problem]:
    """Yield the variables that mean a table and name none; pydantic finds the unknown keys within tables itself.

    Names without a delimiter belong to others, such as clients.
    """
    for name in sorted(os.environ):
        section, delimiter, _ = name.removeprefix(ENV_PREFIX).lower().partition(DELIMITER)
        if name.startswith(ENV_PREFIX) and delimiter and section not in Settings.model_fields:
            yield Problem(source=name, key=section, message=unknown_key(section, Settings.model_fields))


def _variable_of_field(message: str) -> str:
    """Return the variable that a `SettingsError` is about; it names the top-level field in quotes."""
    found = re.search(r'field "(\w+)"', message)
    return f"{ENV_PREFIX}{found[1].upper()}" if found else "environment"


def _source(loc: Sequence[int | str], path: Path | None, from_file: Tree, overrides: Sequence[Override]) -> str:
    for override in overrides:
        if override.key == ".".join(map(str, loc)):
            return override.option
    names = [str(part) for part in loc if part != "[key]"]
    variables = {name.lower(): name for name in os.environ}
    for depth in range(len(names), 0, -1):
        variable = variables.get((ENV_PREFIX + DELIMITER.join(names[:depth])).lower())
        if variable is not None:
            return variable
    if path is not None and loc[0] in from_file:
        return str(path)
    return "environment"


def _message(details: ErrorDetails) -> str:
    kind, loc = details["type"], details["loc"]
    given = "" if _is_secret(loc) else f", got {details['input']!r}"
    if kind == "extra_forbidden":
        parent = _table_at(loc[:-1])
        return unknown_key(str(loc[-1]), parent.model_fields)
    if kind == "missing":
        return "is missing"
    if kind in ("model_type", "dict_type"):
        return f"must be a table{given}"
    message = details["msg"].removeprefix("Value error, ")
    if kind == "string_pattern_mismatch":
        message = f"must be {_field_at(loc)}"
    message = re.sub(r"^Input should be ", "must be ", message)
    if isinstance(details["input"], dict):
        return message
    return f"{message}{given}"


def _is_secret(loc: Sequence[int | str]) -> bool:
    """Whether what was given may be a key or hold a password, and must not be repeated."""
    field = _table_at(loc[:-1]).model_fields.get(str(loc[-1]))
    return loc[0] == "security" or (field is not None and not field.repr)


def _field_at(loc: Sequence[int | str]) -> str:
    """Return the description of the field at `loc`: what is allowed, in words."""
    if loc[-1] == "[key]":
        return "a name of letters, digits, '.', '_' and '-', beginning with a letter or digit"
    return _table_at(loc[:-1]).model_fields[str(loc[-1])].description or "of another form"


def _table_at(loc: Sequence[int | str]) -> type[BaseModel]:
    table: type[BaseModel] = Settings
    for part in loc:
        field = table.model_fields.get(str(part))
        # a part that is no field is the name of a model: its table is the one the field's mapping holds
        inner = _table(field) if field is not None else None
        table = inner if inner is not None else table
    return table


def _table(field: FieldInfo) -> type[BaseModel] | None:
    """Return the table that a field holds, straight, optional or by name."""
    pending: list[Any] = [field.annotation]
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return annotation
        pending.extend(getattr(annotation, "__args__", ()))
    return None
