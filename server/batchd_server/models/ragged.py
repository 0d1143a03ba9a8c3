"""The base to derive from when a model takes its items end to end, without padding.

A subclass states `inputs` and `outputs`, builds a network in `build` and calls it in `forward`. This module imports
torch only once a batch is built, so that a front process needs none of it.

Axes: B = items of the batch, T = their elements in all.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from batchd.item import Shape
from batchd_server.models.spec import Array, Tensors, TensorSpec
from batchd_server.models.tensor_model import TensorModel, output_on_host, to_device

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class RaggedBatch:
    """A batch on the device."""

    tensors: Mapping[str, torch.Tensor]
    """By input name: (T, ...) where the input has a variable axis, (B, ...) where it has none."""
    offsets: torch.Tensor
    """Where each item begins, and where the last one ends: int64 (B + 1,)."""

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    @property
    def lengths(self) -> torch.Tensor:
        """Each item's own size: int64 (B,)."""
        return self.offsets.diff()


class RaggedModel(TensorModel):
    """Implements `batchd_server.models.protocol.SupportsRagged` but for `build` and `forward`.

    There is one variable axis, the first of every input and output that has it. What stands for an item must depend on
    its own elements alone: `torch.segment_reduce` and `torch.nested.nested_tensor_from_jagged` take the offsets.
    """

    default_batching: Mapping[str, Any] = {"layout": "ragged"}

    @abstractmethod
    def forward(self, batch: RaggedBatch) -> Mapping[str, torch.Tensor]:
        """Return the outputs by name, laid out as the inputs are."""

    def collate_ragged(self, items: Sequence[Tensors]) -> RaggedBatch:
        """Concatenate: one host tensor and one copy to the device per input.

        Raises:
            ValueError: there is not exactly one variable axis, it is not the first of a tensor, or an item lacks one.
        """
        self._check_axes()
        lengths = [self.shape(item)[0] for item in items]
        return RaggedBatch(
            tensors={spec.name: to_device(_concatenate(spec, items), self.device) for spec in self.batch_inputs},
            offsets=to_device(np.cumsum([0, *lengths], dtype=np.int64), self.device),
        )

    def collate(self, items: Sequence[Tensors], padded_shape: Shape) -> RaggedBatch:
        """Concatenate as well: what needs no padding may do without, wherever it is allowed."""
        return self.collate_ragged(items)

    def run(self, batch: RaggedBatch) -> Mapping[str, torch.Tensor]:
        """Call `forward`. The caller has set the grad mode."""
        return self.forward(batch)

    def split(self, outputs: Mapping[str, torch.Tensor], items: Sequence[Tensors]) -> list[dict[str, Array]]:
        """Cut the outputs into items: one copy to the host per output.

        Raises:
            ValueError: `forward` left out an output, or gave it another size or number of axes than declared.
        """
        answers: list[dict[str, Array]] = [{} for _ in items]
        for spec in self.outputs:
            if not _varies(spec):
                rows = output_on_host(spec, outputs, (len(items), *spec.shape))
                for index, answer in enumerate(answers):
                    answer[spec.name] = rows[index]
                continue
            ends = list(accumulate(self.own_output_sizes(item)[str(spec.shape[0])] for item in items))
            host = output_on_host(spec, outputs, (ends[-1], *spec.shape[1:]))
            for answer, begin, end in zip(answers, [0, *ends], ends, strict=False):
                answer[spec.name] = host[begin:end]
        return answers

    def _check_axes(self) -> None:
        if len(self.axes) != 1:
            raise ValueError(f"a ragged model has one variable axis, this one has {list(self.axes)}")
        for spec in (*self.batch_inputs, *self.outputs):
            if any(isinstance(axis, str) for axis in spec.shape[1:]):
                raise ValueError(
                    f"{spec.name!r}: in a ragged model only the first axis may vary, not {list(spec.shape)}"
                )


def _varies(spec: TensorSpec) -> bool:
    return bool(spec.shape) and isinstance(spec.shape[0], str)


def _concatenate(spec: TensorSpec, items: Sequence[Tensors]) -> Array:
    arrays = [item.get(spec.name) for item in items]
    if any(array is None for array in arrays):
        raise ValueError(f"input {spec.name!r} is missing: a ragged model takes no optional inputs")
    joined: Array = (np.concatenate if _varies(spec) else np.stack)(arrays).astype(spec.dtype, copy=False)  # type: ignore[arg-type]
    return joined
