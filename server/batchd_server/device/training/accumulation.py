"""Sums a step's gradients: a microbatch counts whole or not at all, and a part's norm is taken before it joins.

The gradient of a step is the sum over its microbatches of d(total / W), where W are the loss terms of the whole step,
known before the first microbatch runs: a mean of means would be another loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch

from batchd.gradient_noise import GradientSample, from_microbatches
from batchd.torch_gradients import squared_norm


class Accumulator:
    """The gradient sums of one network, allocated once."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._sum = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._part = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._touched = [False] * len(self.parameters)
        self._apart = False
        self._closed: list[tuple[float, float]] = []  # share of the step's terms, |gradient of the part's own mean|^2

    def tensors(self) -> Iterator[torch.Tensor]:
        """Yield what it holds on the device."""
        yield from self._sum
        yield from self._part

    def begin(self, *, apart: bool) -> None:
        """Forget everything; `apart` keeps parts apart until they are closed."""
        for tensors in (self._sum, self._part):
            torch._foreach_zero_(tensors)
        self._touched = [False] * len(self.parameters)
        self._apart = apart
        self._closed = []

    def add(self, loss: torch.Tensor) -> None:
        """Add the gradient of a microbatch's share of the step's loss. Where this raises, nothing was added."""
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        into = self._part if self._apart else self._sum
        pairs = [(own, new) for own, new in zip(into, gradients, strict=True) if new is not None]
        torch._foreach_add_([own for own, _ in pairs], [new for _, new in pairs])
        for index, gradient in enumerate(gradients):
            self._touched[index] |= gradient is not None

    def close_part(self, share: float) -> None:
        """Join the open part, which has `share` of the step's terms. Where this raises, nothing has changed."""
        if not self._apart:
            return
        norm2 = float(squared_norm(self._part)) / share**2
        self._closed.append((share, norm2))
        torch._foreach_add_(self._sum, self._part)
        torch._foreach_zero_(self._part)

    def norm2(self) -> float:
        """Return the squared norm of the step's gradient."""
        return float(squared_norm(self._sum))

    def sample(self, batch_size: int, norm2: float, population: int) -> GradientSample | None:
        """Return what the parts tell of the gradient's noise, in examples; None of fewer than two parts."""
        if len(self._closed) < 2:
            return None
        weights = [share * batch_size for share, _ in self._closed]
        return from_microbatches([norm for _, norm in self._closed], weights, norm2, population=population)

    def install(self) -> None:
        """Let the optimizer see the sums; parameters that no loss reached have no gradient."""
        for parameter, gradient, touched in zip(self.parameters, self._sum, self._touched, strict=True):
            parameter.grad = gradient if touched else None

    def uninstall(self) -> None:
        """Take the gradients back."""
        for parameter in self.parameters:
            parameter.grad = None

    def versions(self) -> Sequence[int]:
        """Return how often each parameter was written to: the same again means that a failed step changed none."""
        return [parameter._version for parameter in self.parameters]
