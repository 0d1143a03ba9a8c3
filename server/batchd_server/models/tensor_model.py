"""What models have in common that take and give plain tensors, however a batch is laid out.

This module imports torch only once a batch is built, so that a front process needs none of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from batchd.item import Shape
from batchd_server.models.host_allocator import keep_freed_memory
from batchd_server.models.spec import Array, Tensors, TensorSpec

if TYPE_CHECKING:
    import torch


class TensorModel(ABC):
    """The part of `batchd_server.models.protocol.Model` that is the same for padded and ragged batches.

    Every name among the shapes of `inputs` is a variable axis; an item's `shape` lists their sizes in order of first
    appearance.
    """

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]

    network: torch.nn.Module
    """What `build` returned, on the device and in evaluation mode; there once `load` has been called."""
    device: torch.device

    @abstractmethod
    def build(self) -> torch.nn.Module:
        """Return the network with its weights, on the CPU. Called in the device process only."""

    def preprocess(self, item: Tensors) -> Tensors:
        """Return `item` as it is. Override where the batch takes other tensors, and `batch_inputs` with it."""
        return item

    @property
    def batch_inputs(self) -> Sequence[TensorSpec]:
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
        names = (axis for spec in self.batch_inputs for axis in spec.shape if isinstance(axis, str))
        return tuple(dict.fromkeys(names))

    def shape(self, item: Tensors) -> Shape:
        """Return the item's sizes along `axes`.

        Raises:
            ValueError: two tensors disagree about an axis, or no tensor has it.
        """
        sizes: dict[str, int] = {}
        for spec in self.batch_inputs:
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

    def own_output_sizes(self, item: Tensors) -> Mapping[str, int]:
        """Return the sizes of the outputs' variable axes in the answer to `item`."""
        return self.output_sizes(dict(zip(self.axes, self.shape(item), strict=True)))


def to_device(array: Array, device: torch.device) -> torch.Tensor:
    """Copy a host array to `device`, through pinned memory on CUDA."""
    import torch  # noqa: PLC0415 - see the module docstring

    host = torch.from_numpy(array)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


def output_on_host(spec: TensorSpec, outputs: Mapping[str, torch.Tensor], expected: Sequence[int | str]) -> Array:
    """Return an output as an array; `expected` is its shape in the batch, names standing for any size.

    Raises:
        ValueError: `forward` left it out, or gave it another number of axes or another size of the first.
    """
    tensor = outputs.get(spec.name)
    if tensor is None:
        raise ValueError(f"forward gave no output {spec.name!r}; it gave {', '.join(outputs) or 'none'}")
    if tensor.ndim != len(expected) or len(tensor) != expected[0]:
        raise ValueError(f"output {spec.name!r} must have shape {list(expected)}, forward gave {list(tensor.shape)}")
    if tensor.is_floating_point():
        tensor = tensor.float() if tensor.itemsize < 4 else tensor  # numpy has no bfloat16
    host: Array = tensor.cpu().numpy().astype(spec.dtype, copy=False)
    return host
