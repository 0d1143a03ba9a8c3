"""Runs a model without any serving: the bar that a daemon's saturated throughput is held against.

The items are preprocessed beforehand, as the front process does for the device process. Only collate, run and split
are timed, on the calling thread.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import torch

from batchd.item import Shape, num_elements
from batchd.ladder import Ladder
from batchd_server.models.protocol import Model
from batchd_server.models.spec import Tensors

Batches: TypeAlias = list[list[Tensors]]


class Way(StrEnum):
    """How the items are put into batches."""

    ONE_BY_ONE = "one by one"
    FIRST_COME_8 = "first come, 8"
    FIRST_COME_32 = "first come, 32"
    SIZE_SORTED = "size-sorted"


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineResult:
    """One way to batch, measured. Medians over the repeats."""

    way: Way
    items_per_s: float
    seconds: float  # for all items
    outside_network: float  # share of the seconds spent in collate and split
    num_batches: int
    padding_ratio: float  # padded elements that carry no data / all elements


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """Batches with their padded shapes."""

    way: Way
    batches: list[tuple[list[Tensors], Shape]]
    padding_ratio: float


def measure_offline(
    model: Model,
    items: Sequence[Tensors],
    *,
    ladder: Ladder,
    budget: int,
    repeats: int,
    device: torch.device,
    ways: Sequence[Way] = tuple(Way),
) -> list[OfflineResult]:
    """Measure each of `ways`; size-sorted batches are as large as `budget` padded elements allow.

    `model` is loaded, `items` are preprocessed. Every plan runs once unmeasured, and the repeats go round all plans, so
    that a slow spell of the machine meets all of them.
    """
    plans = [_plan(way, model, _batches(way, model, items, budget, ladder), ladder) for way in ways]
    runs: dict[Way, list[tuple[float, float]]] = {plan.way: [] for plan in plans}
    with torch.inference_mode():
        for plan in plans:
            _run(model, plan, device)
        for _ in range(repeats):
            for plan in plans:
                runs[plan.way].append(_run(model, plan, device))
    results = []
    for plan in plans:
        seconds = statistics.median(total for total, _ in runs[plan.way])
        results.append(
            OfflineResult(
                way=plan.way,
                items_per_s=len(items) / seconds,
                seconds=seconds,
                outside_network=statistics.median(1 - network / total for total, network in runs[plan.way]),
                num_batches=len(plan.batches),
                padding_ratio=plan.padding_ratio,
            )
        )
    return results


def _batches(way: Way, model: Model, items: Sequence[Tensors], budget: int, ladder: Ladder) -> Batches:
    match way:
        case Way.ONE_BY_ONE:
            return fixed_batches(items, 1)
        case Way.FIRST_COME_8:
            return fixed_batches(items, 8)
        case Way.FIRST_COME_32:
            return fixed_batches(items, 32)
        case Way.SIZE_SORTED:
            return sorted_batches(model, items, budget, ladder)


def fixed_batches(items: Sequence[Tensors], size: int) -> Batches:
    """Return the items in their order, `size` at a time."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def sorted_batches(model: Model, items: Sequence[Tensors], budget: int, ladder: Ladder) -> Batches:
    """Return batches in order of size, each as large as `budget` padded elements allow; one item at least."""
    batches: Batches = []
    current: list[Tensors] = []
    for item in sorted(items, key=lambda item: num_elements(model.shape(item))):
        candidate = [*current, item]
        if current and num_elements(_padded(model, candidate, ladder)) * len(candidate) > budget:
            batches.append(current)
            candidate = [item]
        current = candidate
    return [*batches, current] if current else batches


def _padded(model: Model, items: Sequence[Tensors], ladder: Ladder) -> Shape:
    largest = tuple(max(sizes) for sizes in zip(*(model.shape(item) for item in items), strict=True))
    return ladder.padded(largest)


def _plan(way: Way, model: Model, batches: Batches, ladder: Ladder) -> _Plan:
    shaped = [(batch, _padded(model, batch, ladder)) for batch in batches]
    own = sum(num_elements(model.shape(item)) for batch in batches for item in batch)
    padded = sum(num_elements(shape) * len(batch) for batch, shape in shaped)
    return _Plan(way=way, batches=shaped, padding_ratio=1 - own / padded)


def _run(model: Model, plan: _Plan, device: torch.device) -> tuple[float, float]:
    """Return the seconds for all batches, and those of them spent in `run`."""
    network = 0.0
    begun = time.perf_counter()
    for batch, padded_shape in plan.batches:
        collated = model.collate(batch, padded_shape)
        before = time.perf_counter()
        outputs = model.run(collated)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        network += time.perf_counter() - before
        model.split(outputs, batch)
    return time.perf_counter() - begun, network
