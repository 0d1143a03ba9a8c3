"""The classification extension: the highest values of an output, with their index."""

from __future__ import annotations

import numpy as np

from batchd_server.errors import BadRequest
from batchd_server.models.spec import Array


def classify(array: Array, highest: int, name: str) -> Array:
    """Return BYTES of shape (batch, n), `value:index`, highest first and n at most `highest`.

    Args:
        array: one output of all items, batch axis first; the elements of an item are its classes.
        highest: classes asked for.
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
    classes = np.empty((len(rows), num), dtype=object)
    for row, indices in enumerate(order):
        for place, index in enumerate(indices):
            value = rows[row, index]
            text = f"{value:.6f}" if rows.dtype.kind == "f" else str(value)
            classes[row, place] = f"{text}:{index}".encode()
    return classes
