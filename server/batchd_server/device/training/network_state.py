"""Keeps a network's buffers (running means, say) at the state of the last complete step, whatever a microbatch did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


class NetworkBuffers:
    """A forward pass in training mode writes to buffers at once; parameters change with the optimizer's step alone."""

    def __init__(self, network: torch.nn.Module) -> None:
        self._network = network
        self._buffers = list(network.buffers())
        self.mark()

    def mark(self) -> None:
        """A step is complete: this is the state to come back to."""
        self._then = [buffer.clone() for buffer in self._buffers]

    @contextmanager
    def kept_on_failure(self) -> Iterator[None]:
        """Undo what the block did to the buffers if it raises."""
        before = [buffer.clone() for buffer in self._buffers]
        try:
            yield
        except BaseException:
            self._write(before)
            raise

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Undo what the block did to the buffers."""
        before = [buffer.clone() for buffer in self._buffers]
        try:
            yield
        finally:
            self._write(before)

    def weights_then(self) -> Mapping[str, torch.Tensor]:
        """Return the network's state at the end of the last step, copied to the host."""
        then = {id(buffer): value for buffer, value in zip(self._buffers, self._then, strict=True)}
        return {
            name: then.get(id(tensor), tensor).detach().to("cpu", copy=True)
            for name, tensor in self._network.state_dict(keep_vars=True).items()
        }

    def _write(self, values: list[torch.Tensor]) -> None:
        with torch.no_grad():
            for buffer, value in zip(self._buffers, values, strict=True):
                buffer.copy_(value)


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Have torch choose algorithms that give the same bits every time. What is served meanwhile runs outside of it."""
    if not wanted:
        yield
        return
    options: Any = torch.utils.deterministic  # torch gives it no types
    before, filled = torch.are_deterministic_algorithms_enabled(), options.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    options.fill_uninitialized_memory = False  # it makes every empty tensor cost a pass
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        options.fill_uninitialized_memory = filled


def on_host(value: Any) -> Any:
    """Copy nested tensors, such as an optimizer's state, to the host."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: on_host(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(on_host(part) for part in value)
    return value
