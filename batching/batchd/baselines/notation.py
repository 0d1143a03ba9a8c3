"""The short notations of the classic rules, as `batchd simulate --policy` and `[device] policy` take them."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise

from batchd.baselines.aimd import AdditiveIncrease
from batchd.baselines.fixed_buckets import FixedBuckets
from batchd.baselines.fixed_window import FixedWindow
from batchd.baselines.threshold import MemoryThreshold
from batchd.baselines.total_time import TotalTime
from batchd.scheduler import Scheduler

ADAPTIVE = "adaptive"
"""The controller's own name among them; everything else is a classic rule."""

POLICIES = (
    ADAPTIVE,
    "window:MS:SIZE",
    "buckets:EDGE,EDGE,...:MS:SIZE",
    "aimd",
    "total-time",
    "threshold:LOW:HIGH[:SIZE]",
)

THRESHOLD_SIZE = 32
"""What a threshold rule begins with where its notation does not say."""


def parse_rule(spec: str, *, slo_s: float, max_batch_size: int) -> Callable[[], Scheduler]:
    """Return a maker of the classic rule that `spec` describes.

    Raises:
        ValueError: not one of `POLICIES` other than the controller, or figures that no rule can work with.
    """
    with suppress(ValueError):  # not numbers: said below
        maker = _maker(spec.split(":"), slo_s, max_batch_size)
        if maker is not None:
            return maker
    raise ValueError(f"policy {spec!r} is not one of {', '.join(POLICIES)}")


def _maker(parts: list[str], slo_s: float, max_batch_size: int) -> Callable[[], Scheduler] | None:
    match parts:
        case ["window", window_ms, size]:
            window_s, num_items = float(window_ms) / 1e3, int(size)
            if _is_window(window_s, num_items):
                return lambda: FixedWindow(window_s, num_items)
        case ["buckets", listed, window_ms, size]:
            edges = tuple(int(edge) for edge in listed.split(","))
            window_s, num_items = float(window_ms) / 1e3, int(size)
            if _is_window(window_s, num_items) and edges[0] > 0 and all(a < b for a, b in pairwise(edges)):
                return lambda: FixedBuckets(edges, window_s, num_items)
        case ["aimd"]:
            return lambda: AdditiveIncrease(slo_s, max_batch_size)
        case ["total-time"]:
            return lambda: TotalTime(max_batch_size)
        case ["threshold", low_mark, high_mark, *sizes] if len(sizes) <= 1:
            low, high, begin = float(low_mark), float(high_mark), int(sizes[0]) if sizes else THRESHOLD_SIZE
            if 0 < low < high <= 1 and begin >= 1:
                return lambda: MemoryThreshold(low, high, begin, max_batch_size)
        case _:
            pass
    return None


def _is_window(window_s: float, size: int) -> bool:
    return 0 <= window_s < math.inf and size >= 1
