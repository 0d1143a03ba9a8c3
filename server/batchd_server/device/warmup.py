"""Makes items of a model to warm it up with, out of what the model says that it takes.

A model may offer `example(size) -> Tensors`, a preprocessed item whose variable axes are about `size` long; otherwise
zeros are tried, and `preprocess` says whether they are taken.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from batchd.item import Shape, num_elements
from batchd.policy import ModelPolicy
from batchd_server.device.work import PlannedBatch
from batchd_server.models.protocol import Model
from batchd_server.models.spec import Array, Tensors, TensorSpec

log = logging.getLogger(__name__)

SIZES = (8, 16, 32, 64, 4, 1)
"""Tried in turn until one is taken: that the model works at all."""
CALIBRATION_SIZES = (32, 128, 256)
"""Tried each: what larger items cost, so that the latency model is not blind at first."""
PLANNED_SIZES = (1024, 16, 64, 256, 512, 128)
"""What memory is predicted for; the outer ones first, for time may run out."""
MAX_PLANNED_ELEMENTS = 2**20
"""Larger items are left out: what they take is bounded by the square of the ratio."""
MAX_PLANNED_BYTES = 64 * 2**20
"""What the items of one planned batch may hold: they are collated for real."""


@runtime_checkable
class OffersExample(Protocol):
    """What a model adds to be warmed up with something better than zeros."""

    def example(self, size: int) -> Tensors:
        """Return one preprocessed item."""
        ...


def example_items(model: Model) -> tuple[Tensors, ...]:
    """Return preprocessed items of different sizes, a small one first; none where the model takes none of them."""
    small = _example(model, SIZES)
    if small is None:
        return ()
    examples = {model.shape(small): small}
    for size in CALIBRATION_SIZES:
        larger = _example(model, (size,))
        if larger is not None:
            examples.setdefault(model.shape(larger), larger)
    return tuple(examples.values())


def planned_batches(model: Model, policy: ModelPolicy) -> tuple[PlannedBatch, ...]:
    """Return batches whose peak memory is worth predicting: of every size one item, the largest batch, one between."""
    smallest = _example(model, SIZES)
    if smallest is None:
        return ()
    items: dict[Shape, Tensors] = {}
    for size in PLANNED_SIZES:
        item = _planned_item(model, size)
        if item is not None and num_elements(model.shape(item)) <= (policy.max_item_elements or MAX_PLANNED_ELEMENTS):
            items.setdefault(policy.padded(model.shape(item)), item)
    outer: list[PlannedBatch] = []
    between: list[PlannedBatch] = []
    for shape, item in items.items():
        # One item is shorter than the others, if one can be: padding takes memory of its own, and is the rule.
        fits = all(own <= padded for own, padded in zip(model.shape(smallest), shape, strict=True))
        first = smallest if fits else item
        largest = _largest_planned(policy, item, shape)
        batches = {size: PlannedBatch((first, *[item] * (size - 1)), shape) for size in (1, largest)}
        outer += batches.values()
        middle = math.isqrt(largest)
        if middle not in batches:
            between.append(PlannedBatch((first, *[item] * (middle - 1)), shape))
    return (*outer, *between)


def _largest_planned(policy: ModelPolicy, item: Tensors, shape: Shape) -> int:
    elements = max(1, num_elements(shape))
    allowed = policy.max_batch_size if policy.max_batch_elements is None else policy.max_batch_elements // elements
    num_bytes = max(1, sum(array.nbytes for array in item.values()))
    return max(1, min(policy.max_batch_size, allowed, MAX_PLANNED_BYTES // num_bytes))


def _planned_item(model: Model, size: int) -> Tensors | None:
    axes = max((sum(isinstance(axis, str) for axis in spec.shape) for spec in model.inputs), default=0)
    if size**axes > MAX_PLANNED_ELEMENTS:
        return None
    try:
        return _example(model, (size,))
    except Exception as error:  # user code: a size that it cannot make is left out
        log.debug("there is no example of size %d", size, exc_info=error)
        return None


def _example(model: Model, sizes: Sequence[int]) -> Tensors | None:
    if isinstance(model, OffersExample):
        return model.example(sizes[0])
    # Optional inputs are left out first: several may be alternatives to one another.
    required = [spec for spec in model.inputs if not spec.optional]
    candidates = [required] if required else [[spec] for spec in model.inputs]
    for specs in candidates:
        for size in sizes:
            try:
                item = model.preprocess({spec.name: _zeros(spec, size) for spec in specs})
                model.shape(item)
            except (ValueError, KeyError, IndexError):
                continue
            return item
    return None


def _zeros(spec: TensorSpec, size: int) -> Array:
    variable = size if spec.max_size is None else min(size, spec.max_size)
    shape = tuple(axis if isinstance(axis, int) else variable for axis in spec.shape)
    if spec.dtype.kind == "O":
        array = np.empty(shape, dtype=np.object_)
        array.fill(b"a")
        return array
    return np.zeros(shape, dtype=spec.dtype)
