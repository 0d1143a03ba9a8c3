"""What a model adds to be trained. Only the device process trains; fronts do no more than ask whether a model can be.

Axes: B = items of a microbatch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from batchd.item import Shape
from batchd.schedules import Task

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFiles:
    """A dataset as a model finds it. `path` is a file or folder of the given format; None for one that is built in."""

    name: str
    format: str  # npz, safetensors, parquet, jsonl, images, or builtin
    path: Path | None


@dataclass(frozen=True, slots=True)
class Losses:
    """What a microbatch gave. Sums, not means: the trainer divides by the global batch's terms."""

    total: torch.Tensor
    """Scalar with a gradient: the sum of the loss over all terms."""
    terms: float
    """How many terms that is: items, or valid tokens."""
    correct: int | None = None
    """How many of them were predicted right, where that has a meaning."""
    entropy: float | None = None
    """Sum of the predictions' entropy divided by log(classes), where the task is a classification."""


class ExampleSet(Protocol):
    """A dataset as a model's examples."""

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Variable sizes of every example: (N,) or (N, dimensions)."""
        ...

    @property
    def terms(self) -> npt.NDArray[np.float64]:
        """Loss terms of every example: (N,)."""
        ...

    @property
    def validation(self) -> npt.NDArray[np.int64] | None:
        """Indices of the dataset's own validation part; None where it has none."""
        ...

    def batch(self, indices: Sequence[int], padded_shape: Shape, device: torch.device) -> Any:
        """Return one batch on the device, each example padded to `padded_shape`: by the same arguments, the same."""
        ...


@runtime_checkable
class Trainable(Protocol):
    """A model that can be trained."""

    @property
    def task(self) -> Task:
        """What is learned: some schedules need to know."""
        ...

    def new_network(self, *, fresh: bool) -> torch.nn.Module:
        """Return a network on the CPU, with weights from torch's current random state, or those that come along."""
        ...

    def examples(self, dataset: DatasetFiles) -> ExampleSet:
        """Open a dataset.

        Raises:
            ValueError: it is not of a kind that this model learns from; the message goes to the client.
        """
        ...

    def losses(self, network: torch.nn.Module, batch: Any) -> Losses:
        """Run forward and return the losses. Padding must not change them, nor the company of other examples."""
        ...

    def adopt(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Serve with these weights from the next batch on. Called on the thread that runs batches."""
        ...
