"""Lines of real handwritten digits: the UCI scans that scikit-learn carries, joined side by side.

The scans fall into two parts, once and for all: the weights are trained on one, and only the other is handed out here.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

DIGIT_PIXELS = 8
"""Height and width of one scan."""
NUM_CLASSES = 10
_MAX_VALUE = 16.0
_HELD_OUT_SHARE = 0.2
_SPLIT_SEED = 20240607

Image = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Scans:
    """Single digits: images (N, 8, 8) with values in 0..1, labels (N,)."""

    images: Image
    labels: Labels

    def line(self, indices: npt.NDArray[np.intp]) -> tuple[Image, Labels]:
        """Join scans side by side: an image (8, 8 * digits) and its labels (digits,)."""
        return np.concatenate(self.images[indices], axis=1), self.labels[indices]


def scan_lines(seed: int, count: int, max_digits: int = 32) -> list[tuple[Image, Labels]]:
    """Return `count` lines of 1 to `max_digits` digits, from scans that the weights were never trained on.

    The same seed gives the same lines.

    Raises:
        ModuleNotFoundError: scikit-learn, which carries the scans, is not installed.
    """
    held_out = split_scans()[1]
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, max_digits, size=count, endpoint=True)
    return [held_out.line(rng.integers(len(held_out.labels), size=length)) for length in lengths]


@cache
def split_scans() -> tuple[Scans, Scans]:
    """Return the scans for training and the held-out ones."""
    table = np.loadtxt(_bundled_file(), delimiter=",", dtype=np.int64)  # 64 pixels and a label
    images = (table[:, :-1].reshape(-1, DIGIT_PIXELS, DIGIT_PIXELS) / _MAX_VALUE).astype(np.float32)
    labels = table[:, -1]
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    num_held_out = round(_HELD_OUT_SHARE * len(labels))
    held_out, training = order[:num_held_out], order[num_held_out:]
    return Scans(images[training], labels[training]), Scans(images[held_out], labels[held_out])


def _bundled_file() -> Path:
    """Return where scikit-learn has the scans.

    It is not imported: that takes seconds, in which a daemon that serves stutters whenever a job begins.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "the handwritten digits come with scikit-learn: pip install 'batchd[demo]'", name="sklearn"
        )
    return Path(spec.origin).with_name("datasets") / "data" / "digits.csv.gz"
