"""Recorded traffic: JSON lines `{"t_s", "model"?, "size"?, "items"?, "deadline_ms"?}`, in any order.

`t_s` is the arrival in seconds from any zero; replay starts with the first arrival.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from batchd_client.loadtest.payload import Payload, PayloadFactory, PlannedRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRow:
    """One recorded request."""

    at: float
    model: str | None = None
    size: int | None = None
    items: int = 1
    deadline_s: float | None = None


def parse_trace(lines: Iterable[str], source: str = "trace") -> tuple[TraceRow, ...]:
    """Parse the lines into rows by arrival, the first at 0.

    Raises:
        ValueError: in one line that names the source, the line and the field.
    """
    rows: list[TraceRow] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                rows.append(_row(json.loads(line)))
            except ValueError as error:
                raise ValueError(f"{source}, line {number}: {error}") from error
    if not rows:
        raise ValueError(f"{source}: no request in it")
    rows.sort(key=lambda row: row.at)
    zero = rows[0].at
    return tuple(
        TraceRow(at=row.at - zero, model=row.model, size=row.size, items=row.items, deadline_s=row.deadline_s)
        for row in rows
    )


def read_trace(path: Path) -> tuple[TraceRow, ...]:
    """Read and parse a file.

    Raises:
        ValueError: as `parse_trace`.
        OSError: the file cannot be read.
    """
    with path.open(encoding="utf-8") as lines:
        return parse_trace(lines, str(path))


def plan_trace(
    rows: Iterable[TraceRow],
    factories: Mapping[str, PayloadFactory],
    default_model: str,
    rng: np.random.Generator,
    *,
    speed: float = 1.0,
    variants: int = 16,
) -> tuple[PlannedRequest, ...]:
    """Plan the replay, `speed` times as fast. Equal rows share `variants` encoded requests.

    Raises:
        ValueError: where the speed is not positive.
    """
    if not speed > 0:
        raise ValueError(f"speed must be positive, got {speed}")
    pools: dict[tuple[str, int | None, int, float | None], list[Payload]] = {}
    plan: list[PlannedRequest] = []
    for row in rows:
        model = row.model or default_model
        pool = pools.setdefault((model, row.size, row.items, row.deadline_s), [])
        if len(pool) < variants:
            pool.append(factories[model].make(rng, size=row.size, items=row.items, deadline_s=row.deadline_s))
            payload = pool[-1]
        else:
            payload = pool[int(rng.integers(variants))]
        plan.append(PlannedRequest(at=row.at / speed, payload=payload, deadline_s=row.deadline_s))
    return tuple(plan)


def _row(document: Any) -> TraceRow:
    if not isinstance(document, dict):
        raise ValueError("not an object")
    row = cast(dict[str, Any], document)
    deadline_ms = _positive(row, "deadline_ms")
    at = row.get("t_s")
    if isinstance(at, bool) or not isinstance(at, int | float) or not math.isfinite(at):
        raise ValueError(f"t_s must be a number of seconds, got {at!r}")
    model = row.get("model")
    if model is not None and not isinstance(model, str):
        raise ValueError(f"model must be a name, got {model!r}")
    return TraceRow(
        at=float(at),
        model=model,
        size=_count(row, "size"),
        items=_count(row, "items") or 1,
        deadline_s=None if deadline_ms is None else deadline_ms / 1e3,
    )


def _count(row: dict[str, Any], name: str) -> int | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    return value


def _positive(row: dict[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    return float(value)
