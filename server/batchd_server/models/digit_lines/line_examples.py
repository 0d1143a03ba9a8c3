"""Lines of digits as training examples: from the built-in scans, or from a dataset that somebody brought.

Axes: B = lines of a microbatch, N = digits, padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from batchd.item import Shape
from batchd_server.models.digit_lines.augmentation import Variations
from batchd_server.models.digit_lines.scans import DIGIT_PIXELS, NUM_CLASSES, Image, Labels, Scans, split_scans
from batchd_server.models.spec import Array, TensorSpec
from batchd_server.models.trainable import DatasetFiles
from batchd_server.training.datasets.opening import open_dataset

if TYPE_CHECKING:
    import torch

BUILT_IN = "digit-lines"
"""The dataset of the scans that come along."""
NO_DIGIT = -1
"""The label of a cell that is padding."""
_IMAGE = TensorSpec(name="image", datatype="FP32", shape=(DIGIT_PIXELS, "width"), finite=True)
_DIGITS = TensorSpec(name="digits", datatype="INT64", shape=("digits",))
_NUM_LINES = 2048
_LINES_SEED = 20240608
_MEDIAN_DIGITS = 6.0
_SPREAD = 0.8  # of log(digits): most lines are short and a few are long, so that buckets matter


@dataclass(frozen=True, slots=True)
class LineBatch:
    """A microbatch on the device."""

    images: torch.Tensor
    """float32 (B, 8, W)."""
    mask: torch.Tensor | None
    """Which columns of pixels hold data: bool (B, W); None where no line is padded."""
    labels: torch.Tensor
    """int64 (B, N); `NO_DIGIT` where a line has ended."""


class LineExamples:
    """Implements `batchd_server.models.trainable.ExampleSet`."""

    def __init__(self, images: Sequence[Array], labels: Sequence[Array], num_validation: int | None = None) -> None:
        """Take images (8, width) and their labels (width / 8,); the last `num_validation` are the validation part."""
        self._images, self._labels = images, labels
        self._num_validation = num_validation

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Width in pixels: (N,)."""
        return np.array([image.shape[1] for image in self._images], dtype=np.int64)

    @property
    def terms(self) -> npt.NDArray[np.float64]:
        """Digits: (N,)."""
        return np.array([len(labels) for labels in self._labels], dtype=np.float64)

    @property
    def validation(self) -> npt.NDArray[np.int64] | None:
        """Indices of the lines of held-out scans; None for a dataset that somebody brought."""
        if self._num_validation is None:
            return None
        return np.arange(len(self._images) - self._num_validation, len(self._images), dtype=np.int64)

    def batch(self, indices: Sequence[int], padded_shape: Shape, device: torch.device) -> LineBatch:
        """Return lines, each padded to the width `padded_shape[0]`."""
        import torch  # noqa: PLC0415 - device process only

        width = padded_shape[0]
        images = np.zeros((len(indices), DIGIT_PIXELS, width), dtype=np.float32)
        labels = np.full((len(indices), -(-width // DIGIT_PIXELS)), NO_DIGIT, dtype=np.int64)
        own_widths = np.zeros(len(indices), dtype=np.int64)
        for row, index in enumerate(indices):
            image = self._images[index]
            images[row, :, : image.shape[1]] = image
            labels[row, : len(self._labels[index])] = self._labels[index]
            own_widths[row] = image.shape[1]
        mask = np.arange(width) < own_widths[:, None]
        return LineBatch(
            images=torch.from_numpy(images).to(device),
            mask=None if mask.all() else torch.from_numpy(mask).to(device),
            labels=torch.from_numpy(labels).to(device),
        )


def open_lines(dataset: DatasetFiles) -> LineExamples:
    """Return the examples of a dataset.

    Raises:
        ValueError: it does not hold lines of digits.
    """
    if dataset.format == "builtin":
        if dataset.name != BUILT_IN:
            raise ValueError(f"there is no built-in dataset {dataset.name!r}; there is {BUILT_IN!r}")
        return scan_examples()
    table = open_dataset(dataset)
    images, labels = table.column(_IMAGE, "x"), table.column(_DIGITS, "y", "label")
    for index, (pixels, digits) in enumerate(zip(images.shapes[:, 1], labels.shapes[:, 0], strict=True)):
        if pixels != digits * DIGIT_PIXELS:
            raise ValueError(f"example {index}: {digits} digits need {digits * DIGIT_PIXELS} pixels, got {pixels}")
    if labels.values.min() < 0 or labels.values.max() >= NUM_CLASSES:
        raise ValueError(f"the labels must be digits, got {labels.values.min()} to {labels.values.max()}")
    return LineExamples(images, labels)


def scan_examples() -> LineExamples:
    """Return 2,048 lines of 1 to 32 varied training scans; for validation, lines of the held-out scans, each once.

    The same in every process: nothing is drawn later than here.

    Raises:
        ModuleNotFoundError: scikit-learn, which carries the scans, is not installed.
    """
    training, held_out = split_scans()
    rng = np.random.default_rng(_LINES_SEED)
    lengths = _lengths(rng, _NUM_LINES)
    chosen = rng.integers(len(training.labels), size=int(lengths.sum()))
    varied = Variations.draw(len(chosen), rng).of(training.images[chosen])
    lines = _lines(Scans(varied, training.labels[chosen]), lengths)

    order = rng.permutation(len(held_out.labels))
    validation = _lines(Scans(held_out.images[order], held_out.labels[order]), _cut(rng, len(order)))
    images, labels = zip(*lines, *validation, strict=True)
    return LineExamples(images, labels, num_validation=len(validation))


def _lengths(rng: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
    drawn = np.rint(np.exp(rng.normal(np.log(_MEDIAN_DIGITS), _SPREAD, size=count)))
    return np.clip(drawn, 1, 32).astype(np.int64)


def _cut(rng: np.random.Generator, total: int) -> npt.NDArray[np.int64]:
    """Return lengths that sum to `total`."""
    ends = np.minimum(np.cumsum(_lengths(rng, total)), total)
    lengths = np.diff(ends, prepend=0)
    return lengths[lengths > 0]


def _lines(scans: Scans, lengths: npt.NDArray[np.int64]) -> list[tuple[Image, Labels]]:
    ends = np.cumsum(lengths)
    return [scans.line(np.arange(end - length, end)) for end, length in zip(ends, lengths, strict=True)]
