"""Makes one small item of a model, out of what the model says that it takes.

A model may offer `example(size) -> Tensors`, a preprocessed item whose variable axes are about `size` long; otherwise
zeros of small sizes are tried until `preprocess` takes one.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from batchd_server.models.protocol import Model
from batchd_server.models.spec import Array, Tensors, TensorSpec

SIZES = (8, 16, 32, 64, 4, 1)


@runtime_checkable
class OffersExample(Protocol):
    """What a model adds to be warmed up with something better than zeros."""

    def example(self, size: int) -> Tensors:
        """Return one preprocessed item."""
        ...


def example_item(model: Model) -> Tensors | None:
    """Return a small preprocessed item, or None where the model takes none of those that were tried."""
    if isinstance(model, OffersExample):
        return model.example(SIZES[0])
    # Optional inputs are left out first: several may be alternatives to one another.
    required = [spec for spec in model.inputs if not spec.optional]
    candidates = [required] if required else [[spec] for spec in model.inputs]
    for specs in candidates:
        for size in SIZES:
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
