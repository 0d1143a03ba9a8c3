"""Makes items of a model to warm it up with, out of what the model says that it takes.

A model may offer `example(size) -> Tensors`, a preprocessed item whose variable axes are about `size` long; otherwise
zeros are tried, and `preprocess` says whether they are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from batchd_server.models.protocol import Model
from batchd_server.models.spec import Array, Tensors, TensorSpec

SIZES = (8, 16, 32, 64, 4, 1)
"""Tried in turn until one is taken: that the model works at all."""
CALIBRATION_SIZES = (32, 128, 256)
"""Tried each: what larger items cost, so that the latency model is not blind at first."""


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
