"""Which examples are learned from, and which are held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DataSplit:
    """Indices of a dataset's examples, ascending."""

    training: Indices
    validation: Indices

    @classmethod
    def of(cls, count: int, own: Indices | None, fraction: float, seed: int) -> DataSplit:
        """Hold out the dataset's own validation part, or a random `fraction` where it has none.

        Raises:
            ValueError: nothing would be left to learn from.
        """
        if own is None:
            held_out = np.random.default_rng([seed, count]).permutation(count)[: int(fraction * count)]
        else:
            held_out = own
        validation = np.unique(held_out.astype(np.int64))
        training = np.setdiff1d(np.arange(count, dtype=np.int64), validation)
        if not len(training):
            raise ValueError(f"nothing is left to learn from: {len(validation)} of {count} examples are held out")
        return cls(training, validation)
