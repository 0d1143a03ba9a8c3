"""The base to derive from when a model pads its items into one tensor per input.

A subclass states `inputs` and `outputs`, builds a network in `build` and calls it in `forward`. This module imports
torch only once a batch is built, so that a front process needs none of it.

Axes: B = items of the batch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from batchd.item import Shape
from batchd_server.models.spec import Array, Tensors, TensorSpec
from batchd_server.models.tensor_model import TensorModel, output_on_host, to_device

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedBatch:
    """A batch on the device."""

    tensors: Mapping[str, torch.Tensor]
    """By input name, each (B, ...) with its variable axes padded."""
    axes: tuple[str, ...]
    padded_shape: Shape
    """Padded size of each of `axes`."""
    sizes: torch.Tensor
    """Own size of each item along each of `axes`: int64 (B, num_axes)."""
    has_padding: bool
    """False where every item fills the padded shape: masking may then be left out."""

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def lengths(self, axis: str) -> torch.Tensor:
        """Return each item's own size along `axis`: int64 (B,)."""
        return self.sizes[:, self.axes.index(axis)]

    def mask(self, axis: str) -> torch.Tensor:
        """Return which positions along `axis` hold data: bool (B, padded size)."""
        import torch  # noqa: PLC0415 - see the module docstring

        positions = torch.arange(self.padded_shape[self.axes.index(axis)], device=self.sizes.device)
        return positions < self.lengths(axis).unsqueeze(1)


class PaddedModel(TensorModel):
    """Implements `batchd_server.models.protocol.Model` but for `build` and `forward`.

    Items are padded along every variable axis. An optional input that an item lacks is filled with its pad value.
    """

    pad_values: Mapping[str, float] = {}
    """What padding holds, by input name; 0 where not given."""

    @abstractmethod
    def forward(self, batch: PaddedBatch) -> Mapping[str, torch.Tensor]:
        """Return the outputs by name, each (B, ...). Padding must not change what stands in an item's own positions."""

    def collate(self, items: Sequence[Tensors], padded_shape: Shape) -> PaddedBatch:
        """Pad and stack: one host tensor and one copy to the device per input."""
        return self.pad(items, padded_shape, self.device)

    def pad(
        self, items: Sequence[Tensors], padded_shape: Shape, device: torch.device, *, beside: Sequence[TensorSpec] = ()
    ) -> PaddedBatch:
        """Return a batch of the inputs, and of the tensors `beside` them (labels, say), which share their axes."""
        sizes = np.array([self.shape(item) for item in items], dtype=np.int64).reshape(len(items), len(self.axes))
        padded = dict(zip(self.axes, padded_shape, strict=True))
        specs = (*self.batch_inputs, *beside)
        return PaddedBatch(
            tensors={spec.name: to_device(self._stack(spec, items, padded), device) for spec in specs},
            axes=self.axes,
            padded_shape=padded_shape,
            sizes=to_device(sizes, device),
            has_padding=bool((sizes != np.array(padded_shape, dtype=np.int64)).any()),
        )

    def run(self, batch: PaddedBatch) -> Mapping[str, torch.Tensor]:
        """Call `forward`. The caller has set the grad mode."""
        return self.forward(batch)

    def split(self, outputs: Mapping[str, torch.Tensor], items: Sequence[Tensors]) -> list[dict[str, Array]]:
        """Cut the outputs into items, each cropped to its own size: one copy to the host per output.

        Raises:
            ValueError: `forward` left out an output, or gave it another number of items or axes than declared.
        """
        hosts = [(spec, output_on_host(spec, outputs, (len(items), *spec.shape))) for spec in self.outputs]
        answers: list[dict[str, Array]] = []
        for index, item in enumerate(items):
            sizes = self.own_output_sizes(item)
            answers.append({spec.name: _crop(host[index], spec, sizes) for spec, host in hosts})
        return answers

    def _stack(self, spec: TensorSpec, items: Sequence[Tensors], padded: Mapping[str, int]) -> Array:
        shape = tuple(padded[axis] if isinstance(axis, str) else axis for axis in spec.shape)
        stacked = np.full((len(items), *shape), self.pad_values.get(spec.name, 0), dtype=spec.dtype)
        for index, item in enumerate(items):
            array = item.get(spec.name)
            if array is not None:
                own = tuple(slice(size) for size in array.shape)
                stacked[index, ...][own] = array
        return stacked


def _crop(array: Array, spec: TensorSpec, sizes: Mapping[str, int]) -> Array:
    own = tuple(slice(sizes.get(axis)) if isinstance(axis, str) else slice(None) for axis in spec.shape)
    cropped: Array = array[own]
    return cropped if cropped.flags.c_contiguous else cropped.copy()
