"""Makes more of the training scans: shifted by up to one pixel, and of varying brightness."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchd_server.models.digit_lines.scans import DIGIT_PIXELS, Image

_MAX_SHIFT = 1
_BRIGHTNESS = (0.8, 1.1)


@dataclass(frozen=True, slots=True)
class Variations:
    """How each of N scans is varied."""

    shifts: npt.NDArray[np.int64]
    """Pixels up and to the left, (2, N), each in -1..1."""
    brightness: npt.NDArray[np.float32]
    """Factor, (N,)."""

    @classmethod
    def draw(cls, count: int, rng: np.random.Generator) -> Variations:
        """Return `count` variations."""
        shifts = rng.integers(-_MAX_SHIFT, _MAX_SHIFT, size=(2, count), endpoint=True)
        return cls(shifts, rng.uniform(*_BRIGHTNESS, size=count).astype(np.float32))

    def of(self, images: Image) -> Image:
        """Return images (N, 8, 8) varied, each within its own cell."""
        margin = ((0, 0), (_MAX_SHIFT, _MAX_SHIFT), (_MAX_SHIFT, _MAX_SHIFT))
        top, left = _MAX_SHIFT + self.shifts[..., None]  # (N, 1) each: where a cell begins in its image with margins
        grid = np.arange(DIGIT_PIXELS)
        rows, columns = (top + grid)[:, :, None], (left + grid)[:, None, :]
        moved = np.pad(images, margin)[np.arange(len(images))[:, None, None], rows, columns]
        varied: Image = np.clip(moved * self.brightness[:, None, None], 0, 1)
        return varied
