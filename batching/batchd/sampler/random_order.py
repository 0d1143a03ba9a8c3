"""Randomness that is the same everywhere: Philox, a counter-based generator, keyed by (seed, epoch).

Every figure is a function of (seed, epoch, position) alone, so there is no generator's state to save, and a stream can
be entered anywhere. Only the raw 64-bit words are used: numpy promises that these stay as they are between versions,
and promises no such thing of `Generator.permutation`.

Source: J. Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011; numpy's NEP 19.
"""

from __future__ import annotations

import numpy as np

from batchd.sampler.example_sizes import IntArray

MAX_SEED = 2**64 - 1
_SHUFFLE, _CHOICE = 0, 1  # the counter's highest word keeps the two streams apart


def permutation(count: int, seed: int, epoch: int) -> IntArray:
    """Return 0 .. count - 1 in the order of `epoch`: sorted by one random word each, ties in the old order."""
    words = _philox(seed, epoch, 0, _SHUFFLE).random_raw(count)
    return np.argsort(np.asarray(words), kind="stable").astype(np.int64)


def draw(total: int, seed: int, epoch: int, position: int) -> int:
    """Return a number from 0 to total - 1 for the choice made after `position` examples of `epoch`.

    Its bias, total / 2**64, is beyond measuring.
    """
    return int(_philox(seed, epoch, position, _CHOICE).random_raw()) % total


def check_seed(seed: int) -> None:
    """Make sure that `seed` can be a key.

    Raises:
        ValueError: it is negative or needs more than 64 bits.
    """
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"the seed must lie between 0 and 2**64 - 1, got {seed}")


def _philox(seed: int, epoch: int, position: int, purpose: int) -> np.random.Philox:
    return np.random.Philox(
        key=np.array([seed, epoch], dtype=np.uint64), counter=np.array([position, 0, 0, purpose], dtype=np.uint64)
    )
