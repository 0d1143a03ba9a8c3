"""A dataset in memory: named columns of arrays that may vary in size from example to example.

Axes: N = examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchd_server.models.spec import Array, TensorSpec
from batchd_server.training.datasets.problems import DatasetError

_LARGEST = 2.0**62


class Column(Sequence[Array]):
    """One array per example, all of the same number of axes and the same type; kept end to end."""

    def __init__(self, values: Array, shapes: npt.NDArray[np.int64]) -> None:
        """Take all elements, flat, and every example's shape (N, axes).

        Raises:
            DatasetError: the shapes do not add up to the values.
        """
        elements = np.prod(shapes, axis=1, dtype=np.float64)
        if (shapes < 0).any() or elements.sum() > _LARGEST:
            raise DatasetError("a shape is negative or impossibly large")
        self.values, self.shapes = values, shapes
        self._ends = np.cumsum(np.prod(shapes, axis=1, dtype=np.int64))
        if (total := int(self._ends[-1]) if len(shapes) else 0) != len(values):
            raise DatasetError(f"the shapes ask for {total} values, there are {len(values)}")

    @classmethod
    def dense(cls, array: Array) -> Column:
        """Return the examples along the first axis of an array (N, ...).

        Raises:
            DatasetError: it has no axis.
        """
        if array.ndim == 0:
            raise DatasetError("a single number is no column; its first axis must be the examples'")
        shapes = np.tile(np.array(array.shape[1:], dtype=np.int64), (len(array), 1))
        return cls(array.reshape(-1), shapes)

    @classmethod
    def cut(cls, values: Array, offsets: Array) -> Column:
        """Return the examples values[offsets[i]:offsets[i + 1]].

        Raises:
            DatasetError: the offsets do not go from 0 to the length of the values, never falling.
        """
        if values.ndim == 0 or offsets.ndim != 1 or offsets.dtype.kind not in "iu" or len(offsets) < 1:
            raise DatasetError("offsets must be a list of whole numbers, one more than there are examples")
        whole = offsets.astype(np.int64)
        if whole[0] != 0 or whole[-1] != len(values) or (np.diff(whole) < 0).any():
            raise DatasetError(f"offsets must go from 0 to the {len(values)} values and never fall")
        rest = np.tile(np.array(values.shape[1:], dtype=np.int64), (len(whole) - 1, 1))
        return cls(values.reshape(-1), np.column_stack((np.diff(whole), rest)))

    @classmethod
    def of(cls, arrays: Sequence[Array]) -> Column:
        """Return a column of arrays.

        Raises:
            DatasetError: they differ in their number of axes, or mix numbers and texts; says which is the first.
        """
        if not arrays:
            return cls(np.zeros(0), np.zeros((0, 0), dtype=np.int64))
        first = arrays[0]
        for index, array in enumerate(arrays):
            if array.ndim != first.ndim:
                raise DatasetError(f"example {index} has {array.ndim} axes, those before it have {first.ndim}")
            if (array.dtype.kind == "O") != (first.dtype.kind == "O"):
                raise DatasetError(f"example {index} mixes texts and numbers with those before it")
        shapes = np.array([array.shape for array in arrays], dtype=np.int64).reshape(len(arrays), first.ndim)
        return cls(np.concatenate([array.reshape(-1) for array in arrays]), shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> Array:  # type: ignore[override]  # no slices: nobody needs them
        end = int(self._ends[index])
        shape = tuple(self.shapes[index].tolist())
        return self.values[end - int(np.prod(self.shapes[index])) : end].reshape(shape)

    def check(self) -> None:
        """Check what no dataset may have.

        Raises:
            DatasetError: an example is empty, or holds NaN or an infinity; says which is the first.
        """
        if (empty := (self.shapes == 0).any(axis=1)).any():
            raise DatasetError(f"example {int(empty.argmax())} is empty")
        if self.values.dtype.kind == "f" and not (finite := np.isfinite(self.values)).all():
            index = int(np.searchsorted(self._ends, finite.argmin(), side="right"))
            raise DatasetError(f"example {index} holds NaN or an infinity")

    def as_spec(self, spec: TensorSpec) -> Column:
        """Return the column in a tensor's datatype. A single number will do for a list of one.

        Raises:
            DatasetError: an example is not of the tensor's shape, or its values are not of its type.
        """
        shapes = self.shapes
        if shapes.shape[1] == 0 and len(spec.shape) == 1:
            shapes = np.ones((len(self), 1), dtype=np.int64)
        if shapes.shape[1] != len(spec.shape):
            got = shapes[0].tolist()
            raise DatasetError(f"an example must have {len(spec.shape)} axes, {list(spec.shape)}, got {got}")
        for axis, size in enumerate(spec.shape):
            _check_axis(axis, shapes[:, axis], size, spec.max_size)
        if not _holds(self.values, spec.dtype):
            raise DatasetError(f"the values must be {spec.datatype}, got {self.values.dtype}")
        return Column(self.values.astype(spec.dtype, copy=False), shapes)


def _check_axis(axis: int, sizes: npt.NDArray[np.int64], size: int | str, max_size: int | None) -> None:
    if isinstance(size, int):
        wrong, must = sizes != size, f"{size}"
    else:
        wrong, must = sizes > (np.inf if max_size is None else max_size), f"at most {max_size}"
    if wrong.any():
        index = int(wrong.argmax())
        raise DatasetError(f"example {index}: axis {axis} must be {must}, got {sizes[index]}")


def _holds(values: Array, dtype: np.dtype[np.generic]) -> bool:
    """Whether values can be of that type: whole numbers without any loss, others up to rounding."""
    if dtype.kind == "O" or values.dtype.kind == "O":
        return dtype.kind == values.dtype.kind
    if dtype.kind == "f":
        return values.dtype.kind in "biuf"
    with np.errstate(invalid="ignore"):
        return bool((values.astype(dtype) == values).all())


@dataclass(frozen=True, slots=True)
class Table:
    """Columns by name, of equally many examples, at least one of each."""

    columns: Mapping[str, Column]

    def __post_init__(self) -> None:
        """Check the columns.

        Raises:
            DatasetError: there is none, or no example; they differ in length; or one holds what none may.
        """
        if not self.columns:
            raise DatasetError("the dataset has no columns")
        (first, column), *others = self.columns.items()
        if len(column) == 0:
            raise DatasetError(f"the dataset has no examples: {first!r} is empty")
        for name, other in others:
            if len(other) != len(column):
                raise DatasetError(f"{name!r} has {len(other)} examples, but {first!r} has {len(column)}")
        for name, each in self.columns.items():
            try:
                each.check()
            except DatasetError as error:
                raise DatasetError(f"{name!r}: {error}") from None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def column(self, spec: TensorSpec, *other_names: str) -> Column:
        """Return the column of a tensor, which may also stand under other names, in the tensor's datatype.

        Raises:
            DatasetError: it is missing, or not of the tensor's shape or type.
        """
        names = (spec.name, *other_names)
        name = next((name for name in names if name in self.columns), None)
        if name is None:
            there = ", ".join(repr(name) for name in self.columns)
            raise DatasetError(f"no column {' or '.join(repr(name) for name in names)}; there is {there}")
        try:
            return self.columns[name].as_spec(spec)
        except DatasetError as error:
            raise DatasetError(f"{name!r}: {error}") from None
