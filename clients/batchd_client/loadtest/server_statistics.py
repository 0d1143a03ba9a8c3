"""What the server counted during a run: the statistics extension and the padding metric, read before and after.

The difference covers everything that the server did in between, other clients and the warm-up included.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

_DURATIONS = ("queue", "compute_infer")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatistics:
    """Counters of one model; as read they only grow, as a difference they tell of one run."""

    inference_count: int  # items
    execution_count: int  # batches
    mean_s: Mapping[str, float | None]
    """Mean seconds per item in the queue and in the model."""
    batch_sizes: Mapping[int, int]
    """Executions by batch size."""
    padding_ratio: float | None = None
    """Padded elements that carry no data over all elements; None where the server does not tell."""

    @property
    def mean_batch_size(self) -> float | None:
        """Items per execution."""
        return self.inference_count / self.execution_count if self.execution_count > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "inference_count": self.inference_count,
            "execution_count": self.execution_count,
            "mean_batch_size": self.mean_batch_size,
            "padding_ratio": self.padding_ratio,
            **{f"mean_{name}_ms": None if value is None else value * 1e3 for name, value in self.mean_s.items()},
            "batch_sizes": {str(size): count for size, count in sorted(self.batch_sizes.items())},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The counters at one moment."""

    statistics: Any  # the answer of `/v2/models/M/stats`
    padding: tuple[float, float] | None = None  # elements launched: that are padding, that carry data


def parse_padding(metrics: str, model: str) -> tuple[float, float] | None:
    """Find how many elements of a model were padding, and carried data, in the text of `/metrics`.

    A model that has not run yet has no samples: zero of both. None where the server does not count elements.
    """
    if "# TYPE batchd_batch_elements_total " not in metrics:
        return None
    pattern = rf'^batchd_batch_elements_total\{{kind="(padding|data)",model="{re.escape(model)}"\}} (\S+)$'
    found = {kind: float(value) for kind, value in re.findall(pattern, metrics, re.MULTILINE)}
    return found.get("padding", 0.0), found.get("data", 0.0)


def difference(before: Reading | None, after: Reading | None) -> ServerStatistics | None:
    """Subtract two readings; None where either lacks the counters, or they have been reset."""
    if before is None or after is None:
        return None
    first, last = _model(before.statistics), _model(after.statistics)
    if first is None or last is None:
        return None
    inferences, executions = (_gain(first, last, name) for name in ("inference_count", "execution_count"))
    if inferences is None or executions is None or inferences < 0 or executions < 0:
        return None
    sizes_before, sizes_after = _batch_sizes(first), _batch_sizes(last)
    return ServerStatistics(
        inference_count=inferences,
        execution_count=executions,
        mean_s={name: _mean_s(first, last, name) for name in _DURATIONS},
        batch_sizes={
            size: count - sizes_before.get(size, 0)
            for size, count in sizes_after.items()
            if count > sizes_before.get(size, 0)
        },
        padding_ratio=_padding(before.padding, after.padding),
    )


def _padding(before: tuple[float, float] | None, after: tuple[float, float] | None) -> float | None:
    if before is None or after is None:
        return None
    padding, data = after[0] - before[0], after[1] - before[1]
    return padding / (padding + data) if padding >= 0 and data > 0 else None


def _model(answer: Any) -> dict[str, Any] | None:
    models = _object(answer).get("model_stats")
    if not isinstance(models, list) or not models:
        return None
    return _object(models[0])


def _object(value: Any) -> dict[str, Any]:
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}


def _gain(first: dict[str, Any], last: dict[str, Any], name: str) -> int | None:
    old, new = first.get(name), last.get(name)
    return new - old if isinstance(old, int) and isinstance(new, int) else None


def _mean_s(first: dict[str, Any], last: dict[str, Any], name: str) -> float | None:
    old, new = (_object(_object(stats.get("inference_stats")).get(name)) for stats in (first, last))
    count, ns = _gain(old, new, "count"), _gain(old, new, "ns")
    return ns / count / 1e9 if count and ns is not None else None


def _batch_sizes(stats: dict[str, Any]) -> dict[int, int]:
    rows: list[Any] = stats["batch_stats"] if isinstance(stats.get("batch_stats"), list) else []
    found: dict[int, int] = {}
    for row in rows:
        size, count = _object(row).get("batch_size"), _object(_object(row).get("compute_infer")).get("count")
        if isinstance(size, int) and isinstance(count, int):
            found[size] = count
    return found
