"""The sizes of a data set's examples, as the sampler and the padding report take them."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

IntArray: TypeAlias = npt.NDArray[np.int64]


def as_sizes(sizes: npt.ArrayLike, *, multiple: int = 1) -> IntArray:
    """Return sizes as an array of (examples, dimensions), each rounded up to a multiple of `multiple`.

    `sizes` holds one length per example, `(n,)`, or height and width, `(n, 2)`.

    Raises:
        ValueError: not of that form, no example, a size below 1 or not whole, or a multiple below 1.
    """
    if multiple < 1:
        raise ValueError(f"multiple must be at least 1, got {multiple}")
    given = np.asarray(sizes)
    if given.ndim == 1:
        given = given[:, None]
    if given.ndim != 2 or given.shape[0] == 0 or given.shape[1] not in {1, 2}:
        raise ValueError(f"sizes must be of the form (n,) or (n, 2) with n of at least 1, got {np.shape(sizes)}")
    if given.dtype.kind not in "iuf":
        raise ValueError(f"sizes must be whole numbers, got {given.dtype}")
    whole: IntArray = given.astype(np.int64)
    if (whole != given).any() or (whole < 1).any():
        raise ValueError("sizes must be whole numbers of at least 1")
    rounded: IntArray = -(-whole // multiple) * multiple
    return rounded


def elements_of(shapes: IntArray) -> IntArray:
    """Return the elements of every row of (rows, dimensions)."""
    elements: IntArray = np.prod(shapes, axis=1, dtype=np.int64)
    return elements
