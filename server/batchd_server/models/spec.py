"""Tensor specifications: what a model takes and gives, per item, with named variable axes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.generic]
Tensors: TypeAlias = Mapping[str, Array]
"""Named arrays of one item, without a batch axis. BYTES tensors have dtype object and hold `bytes`."""

NUMPY_DTYPES: dict[str, np.dtype[np.generic]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
"""The datatypes of the Open Inference Protocol that batchd serves, as numpy holds them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One named tensor of one item, without the batch axis.

    `shape` gives each axis either a fixed size or the name of a variable axis: `("tokens",)`, `(8, "width")`. An axis
    name that stands in several tensors of a model means the same size within one item. Outputs may use the names of
    the inputs' axes; they are then cropped to the item's own size after the batch.

    Raises:
        ValueError: for an unknown datatype or an axis that is neither a positive size nor a name.
    """

    name: str
    datatype: str
    shape: tuple[int | str, ...]
    optional: bool = False
    finite: bool = False
    """Refuse NaN and infinities."""
    max_size: int | None = None
    """Largest size of the variable axes; None = no limit of its own."""

    def __post_init__(self) -> None:
        if self.datatype not in NUMPY_DTYPES:
            raise ValueError(
                f"tensor {self.name!r}: datatype {self.datatype!r} is not one of {', '.join(NUMPY_DTYPES)}"
            )
        for axis in self.shape:
            if (isinstance(axis, int) and axis < 1) or axis == "":
                raise ValueError(f"tensor {self.name!r}: axis {axis!r} is neither a positive size nor a name")

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The numpy dtype of `datatype`."""
        return NUMPY_DTYPES[self.datatype]

    @property
    def wire_shape(self) -> list[int]:
        """The shape as protocol metadata gives it: batch axis first, -1 for what varies."""
        return [-1, *(axis if isinstance(axis, int) else -1 for axis in self.shape)]
