"""`batchd train submit`: a job's JSON from a file and from options."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from batchd_client import JobSettings

Json = dict[str, Any]


def job_spec(file: Path | None, options: Mapping[str, Any], assignments: Sequence[str]) -> Json:
    """Return a job: what the file says, the options over it, and the assignments over both.

    The options' keys, and those of assignments (`KEY=VALUE`), are places in the job such as `optimizer.lr`; a name that
    the job itself does not have is a parameter of the schedule. Options that are None are left out. Everything else
    about a job is the daemon's to check.

    Raises:
        ValueError: the file holds no JSON object, an assignment is none, or it is not said what to train on what.
        OSError: the file cannot be read.
    """
    spec = {} if file is None else _read(file)
    for place, value in options.items():
        if value is not None:
            _put(spec, place, value)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not all(key.split(".")):
            raise ValueError(f"--set takes KEY=VALUE, got {assignment!r}")
        in_job = "." in key or key in JobSettings.__annotations__
        _put(spec, key if in_job else f"batching.schedule.{key}", _value(text))
    for name in ("model", "dataset"):
        if name not in spec:
            raise ValueError(f"--{name} is missing")
    schedule = spec.get("batching", {}).get("schedule", {}) if isinstance(spec.get("batching"), dict) else {}
    if schedule and "name" not in schedule:
        raise ValueError("--set needs --schedule, whose parameters it sets")
    return spec


def _read(file: Path) -> Json:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{file}: not a JSON object")
    return cast(Json, found)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _put(spec: Json, place: str, value: Any) -> None:
    *path, last = place.split(".")
    table = spec
    for number, name in enumerate(path):
        inner = table.setdefault(name, {})
        if isinstance(inner, str):  # the short form of a name without parameters
            inner = table[name] = {"name": inner}
        if not isinstance(inner, dict):
            raise ValueError(f"{'.'.join(path[: number + 1])} is no table, so {place} cannot be set")
        table = inner
    if last == "name" and isinstance(table.get("name"), str) and table["name"] != value:
        table.clear()  # another schedule or optimizer has parameters of its own
    table[last] = value
