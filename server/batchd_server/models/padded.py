"""The base to derive from when a model pads its items into one tensor per input.

A subclass states `inputs` and `outputs`, builds a network in `build` and calls it in `forward`. This module imports
torch only once a batch is built, so that a front process needs none of it.

Axes: B = items of the batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from batchd.item import Shape
from batchd_server.models.host_allocator import keep_freed_memory
from batchd_server.models.spec import Array, Tensors, TensorSpec

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


class PaddedModel(ABC):
    """Implements `batchd_server.models.protocol.Model` but for `build` and `forward`.

    Every name among the shapes of `inputs` is a variable axis; an item's `shape` lists their sizes in order of first
    appearance. An optional input that an item lacks is filled with its pad value.
    """

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    pad_values: Mapping[str, float] = {}
    """What padding holds, by input name; 0 where not given."""

    network: torch.nn.Module
    """What `build` returned, on the device and in evaluation mode; there once `load` has been called."""
    device: torch.device

    @abstractmethod
    def build(self) -> torch.nn.Module:
        """Return the network with its weights, on the CPU. Called in the device process only."""

    @abstractmethod
    def forward(self, batch: PaddedBatch) -> Mapping[str, torch.Tensor]:
        """Return the outputs by name, each (B, ...). Padding must not change what stands in an item's own positions."""

    def preprocess(self, item: Tensors) -> Tensors:
        """Return `item` as it is. Override where the batch takes other tensors, and `padded_inputs` with it."""
        return item

    @property
    def padded_inputs(self) -> Sequence[TensorSpec]:
        """What `preprocess` returns; `inputs` unless overridden."""
        return self.inputs

    def output_sizes(self, sizes: Mapping[str, int]) -> Mapping[str, int]:
        """Return an item's own size of the outputs' variable axes, from those of its inputs.

        Override where an output axis is shorter or longer than its input's, as after a strided convolution.
        """
        return sizes

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """Names of the variable axes, in the order of `shape`."""
        names = (axis for spec in self.padded_inputs for axis in spec.shape if isinstance(axis, str))
        return tuple(dict.fromkeys(names))

    def shape(self, item: Tensors) -> Shape:
        """Return the item's sizes along `axes`.

        Raises:
            ValueError: two tensors disagree about an axis, or no tensor has it.
        """
        sizes: dict[str, int] = {}
        for spec in self.padded_inputs:
            array = item.get(spec.name)
            if array is None:
                continue
            for axis, size in zip(spec.shape, array.shape, strict=True):
                if isinstance(axis, str) and sizes.setdefault(axis, size) != size:
                    raise ValueError(f"axis {axis!r} is {size} in {spec.name!r} but {sizes[axis]} in another tensor")
        missing = [axis for axis in self.axes if axis not in sizes]
        if missing:
            raise ValueError(f"no tensor gives the size of axis {missing[0]!r}")
        return tuple(sizes[axis] for axis in self.axes)

    def load(self, device: torch.device) -> None:
        """Build the network and move it to `device`."""
        self.device = device
        if device.type == "cpu":
            keep_freed_memory()
        self.network = self.build().to(device).eval()

    def collate(self, items: Sequence[Tensors], padded_shape: Shape) -> PaddedBatch:
        """Pad and stack: one host tensor and one copy to the device per input."""
        import torch  # noqa: PLC0415 - see the module docstring

        pinned = self.device.type == "cuda"

        def to_device(array: Array) -> torch.Tensor:
            host = torch.from_numpy(array)
            return host.pin_memory().to(self.device, non_blocking=True) if pinned else host.to(self.device)

        sizes = np.array([self.shape(item) for item in items], dtype=np.int64).reshape(len(items), len(self.axes))
        padded = dict(zip(self.axes, padded_shape, strict=True))
        return PaddedBatch(
            tensors={spec.name: to_device(self._stack(spec, items, padded)) for spec in self.padded_inputs},
            axes=self.axes,
            padded_shape=padded_shape,
            sizes=to_device(sizes),
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
        hosts = [(spec, self._to_host(spec, outputs, len(items))) for spec in self.outputs]
        answers: list[dict[str, Array]] = []
        for index, item in enumerate(items):
            sizes = self.output_sizes(dict(zip(self.axes, self.shape(item), strict=True)))
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

    def _to_host(self, spec: TensorSpec, outputs: Mapping[str, torch.Tensor], num_items: int) -> Array:
        tensor = outputs.get(spec.name)
        if tensor is None:
            raise ValueError(f"forward gave no output {spec.name!r}; it gave {', '.join(outputs) or 'none'}")
        if tensor.ndim != len(spec.shape) + 1 or len(tensor) != num_items:
            raise ValueError(
                f"output {spec.name!r} must have shape {[num_items, *spec.shape]}, forward gave {list(tensor.shape)}"
            )
        if tensor.is_floating_point():
            tensor = tensor.float() if tensor.itemsize < 4 else tensor  # numpy has no bfloat16
        host: Array = tensor.cpu().numpy().astype(spec.dtype, copy=False)
        return host


def _crop(array: Array, spec: TensorSpec, sizes: Mapping[str, int]) -> Array:
    own = tuple(slice(sizes.get(axis)) if isinstance(axis, str) else slice(None) for axis in spec.shape)
    cropped: Array = array[own]
    return cropped if cropped.flags.c_contiguous else cropped.copy()
