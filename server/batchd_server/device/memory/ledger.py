"""Bytes of the tensor storages that live, counted op by op: what a CPU batch takes.

The resident set says nothing about one batch, because the heap is reused; torch's CPU allocator has no counters. So a
dispatch mode sees every op's outputs. It costs about 10 us per op, therefore only samples run under it. It sees the
calling thread alone, and nothing inside an op: run under no_grad, since inference_mode hides composite ops.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class AllocationLedger(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own class hook
    """Counts live and peak bytes of storages born inside its `with` block.

    With `limit_bytes` it is a small device: it raises torch.OutOfMemoryError after the op that went past the limit.
    With `device_type` it counts what lies on such devices alone; every storage takes whole `granule`s of bytes.
    """

    def __init__(self, limit_bytes: int | None = None, *, device_type: str | None = None, granule: int = 1) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._limit_bytes = limit_bytes
        self._device_type = device_type
        self._granule = granule
        # Weak references, not finalizers: those of weights would outlive the ledger.
        self._storages: dict[int, tuple[weakref.ref[torch.UntypedStorage], int]] = {}  # with the bytes counted

    def adopt(self, value: Any) -> None:
        """Count tensors that came into being without an op of their own, such as those made of numpy arrays."""
        for tensor in tensors_in(value):
            self._enter(tensor, counted=True, again=True)

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        self._storages.clear()  # the callbacks in it refer back to the ledger

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tensors_in((args, kwargs)):
            self._enter(tensor, counted=False)  # weights and whatever else was there before
        result = func(*args, **(kwargs or {}))
        for tensor in tensors_in(result):
            self._enter(tensor, counted=True)
        if self._limit_bytes is not None and self.live > self._limit_bytes:
            raise torch.OutOfMemoryError(f"{self.live} bytes are live, the limit is {self._limit_bytes}")
        return result

    def _enter(self, tensor: torch.Tensor, *, counted: bool, again: bool = False) -> None:
        if tensor.layout is not torch.strided or self._device_type not in (None, tensor.device.type):
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages:
            if not again or self._storages[key][1]:
                return
            del self._storages[key]
        num_bytes = -(-storage.nbytes() // self._granule) * self._granule if counted else 0

        def leave(_: weakref.ref[torch.UntypedStorage]) -> None:
            self._storages.pop(key, None)
            self.live -= num_bytes

        self._storages[key] = (weakref.ref(storage, leave), num_bytes)
        self.live += num_bytes
        self.peak = max(self.peak, self.live)


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of nested containers and of objects with attributes, as batches are made of."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors_in(part)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from tensors_in(getattr(value, name, None))
