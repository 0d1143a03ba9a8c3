"""The statistics extension of the Open Inference Protocol, per model, in its JSON shape.

Requests succeed and fail; items queue and are computed. `inference_count / execution_count` is the mean batch size.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Duration:
    """How often, and how long in all."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float, count: int = 1) -> None:
        """Count `count` occurrences of `seconds` each."""
        self.count += count
        self.ns += round(seconds * 1e9) * count

    def to_json(self) -> dict[str, int]:
        """Return the protocol's form."""
        return {"count": self.count, "ns": self.ns}


@dataclass(slots=True)
class Compute:
    """The three stages of a batch."""

    collate: Duration = field(default_factory=Duration)
    run: Duration = field(default_factory=Duration)
    split: Duration = field(default_factory=Duration)

    def add(self, collate_s: float, run_s: float, split_s: float, count: int = 1) -> None:
        """Count `count` occurrences of the three."""
        self.collate.add(collate_s, count)
        self.run.add(run_s, count)
        self.split.add(split_s, count)

    def to_json(self) -> dict[str, Any]:
        """Return the protocol's form."""
        return {
            "compute_input": self.collate.to_json(),
            "compute_infer": self.run.to_json(),
            "compute_output": self.split.to_json(),
        }


@dataclass(slots=True)
class ModelStatistics:
    """What one model has done since this process started."""

    name: str
    version: str
    memory_type: str  # "CPU" or "GPU"
    memory_id: int = 0
    memory_bytes: int | None = None  # resident with the model; None while unknown
    last_inference_ms: int = 0  # of the Unix epoch
    inference_count: int = 0
    execution_count: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute: Compute = field(default_factory=Compute)
    batches: defaultdict[int, Compute] = field(default_factory=lambda: defaultdict(Compute))

    def count_batch(self, size: int, collate_s: float, run_s: float, split_s: float) -> None:
        """Count a batch that succeeded; every item of it went through the whole of it."""
        self.inference_count += size
        self.execution_count += 1
        self.last_inference_ms = time.time_ns() // 1_000_000
        self.compute.add(collate_s, run_s, split_s, count=size)
        self.batches[size].add(collate_s, run_s, split_s)

    def to_json(self) -> dict[str, Any]:
        """Return one entry of `model_stats`."""
        nothing = Duration().to_json()
        return {
            "name": self.name,
            "version": self.version,
            "last_inference": self.last_inference_ms,
            "inference_count": self.inference_count,
            "execution_count": self.execution_count,
            "inference_stats": {
                "success": self.success.to_json(),
                "fail": self.fail.to_json(),
                "queue": self.queue.to_json(),
                **self.compute.to_json(),
                "cache_hit": nothing,
                "cache_miss": nothing,
            },
            "response_stats": {},
            "batch_stats": [{"batch_size": size, **self.batches[size].to_json()} for size in sorted(self.batches)],
            "memory_usage": (
                []
                if self.memory_bytes is None
                else [{"type": self.memory_type, "id": self.memory_id, "byte_size": self.memory_bytes}]
            ),
        }
