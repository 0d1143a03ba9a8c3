"""Cuts a global batch into microbatches that the device can hold.

How it is cut changes speed and memory, never the result: the gradient is the sum of the microbatches' mean gradients,
each times its weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchd.item import Shape
from batchd.sampler.example_sizes import as_sizes, elements_of


class DoesNotFitError(ValueError):
    """An item that is too large for a microbatch of its own; `index` is its place in the global batch."""

    def __init__(self, index: int, padded_shape: Shape) -> None:
        """Name the item."""
        super().__init__(f"item {index}, padded to {list(padded_shape)}, does not fit even alone")
        self.index = index
        self.padded_shape = padded_shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Microbatch:
    """Items that run together, as places in the global batch."""

    indices: tuple[int, ...]
    padded_shape: Shape
    weight: float  # its share of the global batch's loss terms; over a global batch they sum to 1


def plan_microbatches(
    sizes: npt.ArrayLike,
    largest: Callable[[Shape], int],
    *,
    multiple: int = 1,
    loss_terms: Sequence[int] | None = None,
) -> list[Microbatch]:
    """Cut a global batch of `sizes`, `(n,)` or `(n, 2)`, into microbatches, the largest items first.

    `largest` says how many items of a padded shape fit at once, for example from the memory model. Items are sorted by
    their elements so that like sizes run together, and equals keep their order: the same arguments give the same plan.
    What does not fit is found out with the first microbatch, not the last. In one dimension no plan has fewer
    microbatches, where `largest` does not rise with the size.

    `loss_terms`, how many terms each item adds to the loss (its valid tokens, say), weighs microbatches by those
    instead of by items, for losses that are means over tokens. A mean of means would be another loss.

    Raises:
        DoesNotFitError: `largest` allows none of an item.
        ValueError: sizes or loss terms that are none.
    """
    shapes = as_sizes(sizes, multiple=multiple)
    terms = np.ones(len(shapes), dtype=np.int64) if loss_terms is None else np.asarray(loss_terms, dtype=np.int64)
    if terms.shape != (len(shapes),) or (terms < 0).any() or terms.sum() == 0:
        raise ValueError(f"loss_terms must be one number for each of {len(shapes)} items, and not all zero")
    total = int(terms.sum())
    order = np.argsort(-elements_of(shapes), kind="stable")
    plan: list[Microbatch] = []
    begin = 0
    while begin < len(order):
        count = _fitting(shapes[order[begin:]], largest)
        if count == 0:
            raise DoesNotFitError(int(order[begin]), tuple(shapes[order[begin]].tolist()))
        chosen = order[begin : begin + count]
        plan.append(
            Microbatch(
                indices=tuple(chosen.tolist()),
                padded_shape=tuple(shapes[chosen].max(axis=0).tolist()),
                weight=int(terms[chosen].sum()) / total,
            )
        )
        begin += count
    return plan


def _fitting(shapes: npt.NDArray[np.int64], largest: Callable[[Shape], int]) -> int:
    """Return how many of the first of (items, dimensions) fit at once when padded to what they have in common.

    In two dimensions each further item may widen the common shape, so the first ones are tried again with what it is.
    """
    count = min(len(shapes), largest(tuple(shapes[0].tolist())))
    while count > 1:
        allowed = largest(tuple(shapes[:count].max(axis=0).tolist()))
        if allowed >= count:
            break
        count = max(1, min(allowed, count - 1))
    return max(0, count)
