"""Squared norms of gradients, and the entropy of predictions, taken from tensors.

The one module of batchd that needs torch: nothing in batchd imports it, a training loop does.
Nothing here waits for the device until a sample is asked for.
"""

# pyright: standard, reportDeprecated=false
# torch's own signatures are not complete
from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from contextlib import contextmanager

import torch

from batchd.gradient_noise import GradientSample, from_microbatches


def squared_norm(gradients: Iterable[torch.Tensor | None]) -> torch.Tensor:
    """Return the sum of squares of all elements in float64, on the device of the first; None counts as zeros."""
    return _total([_squared(gradient) for gradient in gradients if gradient is not None])


def prediction_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Return the entropy in nats of softmax(logits) over the last dimension.

    Computed as logsumexp(z) - sum(softmax(z) * z): no logarithm of a probability, so large logits stay finite. Classes
    that are masked out with -inf count for nothing.
    """
    logits = logits.detach().float() if logits.dtype in {torch.float16, torch.bfloat16} else logits.detach()
    products = logits.softmax(-1) * logits.masked_fill(logits == -math.inf, 0.0)
    return logits.logsumexp(-1) - products.sum(-1)


class GradientHooks:
    """Sees each microbatch's gradient before it is added to `.grad`; keeps one number per microbatch and no copy.

    ```python
    hooks = GradientHooks(model.parameters())
    for part in parts:
        with hooks.microbatch(weight=len(part), share=len(part) / batch_size):
            (loss(part) * len(part) / batch_size).backward()
    sample = hooks.sample()  # before clipping; `.grad` is the mean over the batch
    ```
    """

    def __init__(self, parameters: Iterable[torch.Tensor]) -> None:
        """Watch the parameters that are trained."""
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._handles = [
            parameter.register_hook(self._see)  # type: ignore[no-untyped-call]
            for parameter in self._parameters
        ]
        self._open: list[torch.Tensor] | None = None
        self._seen: list[tuple[float, float, torch.Tensor]] = []

    @contextmanager
    def microbatch(self, *, weight: float, share: float) -> Generator[None]:
        """Measure one backward pass of a loss that was multiplied by `share`; nothing is kept where it raises.

        Raises:
            ValueError: weight or share is not positive.
        """
        if weight <= 0 or share <= 0:
            raise ValueError(f"weight and share must be positive, got {weight} and {share}")
        self._open = []
        try:
            yield
            self._seen.append((weight, share, _total(self._open)))
        finally:
            self._open = None

    def sample(self, *, population: int | None = None, loss_scale: float = 1.0) -> GradientSample | None:
        """Return the estimate of the step whose gradient is in `.grad`, and begin anew; None of one microbatch.

        `loss_scale` is what automatic mixed precision multiplied the loss by, if `.grad` is not unscaled yet.
        """
        seen, self._seen = self._seen, []
        if len(seen) < 2:
            return None
        mean_norm2 = float(squared_norm(parameter.grad for parameter in self._parameters)) / loss_scale**2
        norms2 = [float(norm2) / (share * loss_scale) ** 2 for _, share, norm2 in seen]
        return from_microbatches(norms2, [weight for weight, _, _ in seen], mean_norm2, population=population)

    def discard(self) -> None:
        """Forget the microbatches of a step that will not be taken."""
        self._seen = []

    def close(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()

    def _see(self, gradient: torch.Tensor) -> None:
        if self._open is not None:
            self._open.append(_squared(gradient.detach()))


def _total(parts: list[torch.Tensor]) -> torch.Tensor:
    if not parts:
        return torch.zeros((), dtype=torch.float64)
    return torch.stack([part.to(parts[0].device) for part in parts]).sum()


def _squared(gradient: torch.Tensor) -> torch.Tensor:
    dense = gradient.coalesce().values() if gradient.is_sparse else gradient
    norm: torch.Tensor = torch.linalg.vector_norm(dense, dtype=torch.float64)
    return norm.square()
