"""The examples of a model that pads: each row of a table is what a client would send, and what is to be answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from batchd.item import Shape
from batchd_server.models.padded import PaddedBatch, PaddedModel
from batchd_server.models.spec import Array, Tensors, TensorSpec
from batchd_server.training.datasets.problems import DatasetError
from batchd_server.training.datasets.table import Table

if TYPE_CHECKING:
    import torch


class ColumnExamples:
    """Implements `batchd_server.models.trainable.ExampleSet`. A batch is a `PaddedBatch` with the label in it."""

    def __init__(self, model: PaddedModel, table: Table, label: TensorSpec, *, terms_axis: str | None = None) -> None:
        """Take the columns that have the names of the model's inputs and of the label.

        `x` will do for a single input, `y` or `label` for the label. A label's variable axes are the inputs', by name.
        An example has one loss term, or as many as it is long along `terms_axis`.

        Raises:
            DatasetError: a column is missing or of another shape or type, or the model refuses an example.
        """
        self._model, self._label, self._terms_axis = model, label, terms_axis
        other_names = ("x",) if len(model.inputs) == 1 else ()
        wanted = [spec for spec in model.inputs if not spec.optional or spec.name in table.columns]
        columns = {spec.name: table.column(spec, *other_names) for spec in wanted}
        labels = table.column(label, "y", "label")
        self._items: list[Tensors] = []
        for index in range(len(table)):
            own = {name: column[index] for name, column in columns.items()}
            self._items.append(self._checked(index, own, labels[index]))
        self._sizes = np.array([model.shape(item) for item in self._items], dtype=np.int64)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Sizes along the model's variable axes: (N, axes); ones (N, 1) for a model that has none."""
        return self._sizes if self._model.axes else np.ones((len(self._items), 1), dtype=np.int64)

    @property
    def terms(self) -> npt.NDArray[np.float64]:
        """Loss terms: (N,)."""
        if self._terms_axis is None:
            return np.ones(len(self._items))
        return self._sizes[:, self._model.axes.index(self._terms_axis)].astype(np.float64)

    @property
    def validation(self) -> npt.NDArray[np.int64] | None:
        """Nobody has said which examples to hold out."""
        return None

    def batch(self, indices: Sequence[int], padded_shape: Shape, device: torch.device) -> PaddedBatch:
        """Return examples, padded."""
        items = [self._items[index] for index in indices]
        shape = padded_shape if self._model.axes else ()
        return self._model.pad(items, shape, device, beside=(self._label,))

    def _checked(self, index: int, item: dict[str, Array], label: Array) -> Tensors:
        try:
            prepared = {**self._model.preprocess(item), self._label.name: label}
            sizes = dict(zip(self._model.axes, self._model.shape(prepared), strict=True))
            for axis, size in zip(self._label.shape, label.shape, strict=True):
                if isinstance(axis, str) and sizes.get(axis) != size:
                    raise ValueError(f"{self._label.name!r} is {size} along {axis!r}, the inputs are {sizes.get(axis)}")
        except ValueError as error:
            raise DatasetError(f"example {index}: {error}") from error
        return prepared
