"""Padded shapes for sizes in two dimensions: rectangles, merged two by two where that pads least.

Heights and widths have no common order, so there is no cheap exact solution as there is in one dimension. Examples are
gathered into the cells of a logarithmic grid, and while there are too many cells, the two whose common rectangle adds
the fewest padded elements become one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from batchd.sampler.example_sizes import IntArray, elements_of

CELLS_PER_DIMENSION = 32


def merged_rectangles(
    sizes: IntArray, at_most: int, cost_per_bucket: float = 0.0, most_elements: float = np.inf
) -> IntArray:
    """Return at most `at_most` rectangles, (rectangles, 2), one of which holds each of `sizes`, (examples, 2).

    Two rectangles are merged, too, where that pads no more than `cost_per_bucket` elements. None is merged beyond
    `most_elements`, even if more than `at_most` are left.
    O(cells**2) each time, for at most `CELLS_PER_DIMENSION` ** 2 cells.
    """
    shapes, counts = _cells(sizes)
    added = np.stack([_added_to(index, shapes, counts, most_elements) for index in range(len(shapes))])
    alive = np.ones(len(shapes), dtype=np.bool_)
    for left in range(len(shapes), 1, -1):
        first, second = divmod(int(np.argmin(added)), len(shapes))
        least = added[first, second]
        if np.isinf(least) or (left <= at_most and least > cost_per_bucket):
            break
        shapes[first] = np.maximum(shapes[first], shapes[second])
        counts[first] += counts[second]
        alive[second] = False
        added[first, :] = np.where(alive, _added_to(first, shapes, counts, most_elements), np.inf)
        added[:, first] = added[first, :]
        added[second, :] = added[:, second] = np.inf
    return shapes[alive]


def _cells(sizes: IntArray) -> tuple[IntArray, IntArray]:
    """Return the corner of every grid cell that has examples, and how many it has."""
    columns = [_grid(sizes[:, dimension]) for dimension in range(sizes.shape[1])]
    _, cell = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    cell = cell.reshape(-1)
    counts = np.bincount(cell).astype(np.int64)
    shapes = np.zeros((len(counts), sizes.shape[1]), dtype=np.int64)
    np.maximum.at(shapes, cell, sizes)
    return shapes, counts


def _grid(values: IntArray) -> IntArray:
    distinct, index = np.unique(values, return_inverse=True)
    if len(distinct) <= CELLS_PER_DIMENSION:
        return index.reshape(-1).astype(np.int64)
    low, high = np.log(values.min()), np.log(values.max())
    steps = np.floor((np.log(values) - low) / (high - low) * CELLS_PER_DIMENSION)
    cells: IntArray = np.minimum(steps, CELLS_PER_DIMENSION - 1).astype(np.int64)
    return cells


def _added_to(index: int, shapes: IntArray, counts: IntArray, most_elements: float) -> npt.NDArray[np.float64]:
    """Return the padded elements that merging `index` with every other rectangle adds; infinite if forbidden."""
    own = elements_of(shapes)
    common = elements_of(np.maximum(shapes, shapes[index]))
    added = (counts + counts[index]) * common - counts * own - counts[index] * own[index]
    result: npt.NDArray[np.float64] = np.where(common <= most_elements, added.astype(np.float64), np.inf)
    result[index] = np.inf
    return result
