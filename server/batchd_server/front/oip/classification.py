"""The classification extension: the highest values of an output, with their index."""

from __future__ import annotations

import numpy as np

from batchd_server.errors import BadRequest
from batchd_server.models.spec import Array

_SORT_S = 0.1e-6
_RENDER_S = 1.5e-6
"""What an element costs to sort, and what a class of an answer costs to write out; on a slow core."""


def classify(array: Array, highest: int, name: str) -> Array:
    """Return BYTES of shape (batch, n), `value:index`, highest first and n at most `highest`.

    Args:
        array: one output of all items, batch axis first; the elements of an item are its classes.
        highest: classes asked for; of more than there are, all.
        name: of the output, for messages.

    Raises:
        BadRequest: the output holds no numbers.
    """
    if array.dtype.kind not in "iuf":
        raise BadRequest(f"output {name!r} holds no numbers to classify by", field="outputs")
    rows = array.reshape(len(array), -1)
    num = min(highest, rows.shape[1])
    # Ascending order reversed, on reversed rows: of equal values the first index stays first. NaN sorts as lowest.
    keys = np.where(np.isnan(rows), -np.inf, rows) if rows.dtype.kind == "f" else rows
    order = (rows.shape[1] - 1 - np.argsort(keys[:, ::-1], axis=1, kind="stable"))[:, ::-1][:, :num]
    values = np.take_along_axis(rows, order, axis=1)
    form = b"%.6f:%d" if rows.dtype.kind == "f" else b"%d:%d"
    classes = np.empty(order.size, dtype=object)
    classes[:] = [form % pair for pair in zip(values.ravel().tolist(), order.ravel().tolist(), strict=True)]
    return classes.reshape(order.shape)


def classifying_s(num_classes: int, highest: int) -> float:
    """Return about how many seconds an item of so many classes takes, until its `highest` are written out."""
    return num_classes * _SORT_S + min(highest, num_classes) * _RENDER_S
