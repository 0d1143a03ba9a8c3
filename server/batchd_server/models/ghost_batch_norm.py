"""Batch normalisation over groups of a fixed size, so that what is learned does not depend on the microbatch.

Ordinary batch normalisation takes its statistics over what runs at once: with accumulation that is the microbatch,
which follows from the memory and time that happen to be free. Here every `virtual_size` consecutive items are
normalised by themselves, whatever else runs with them (ghost batch normalisation: Hoffer, Hubara and Soudry 2017,
"Train longer, generalize better").

Axes: B items, C channels, any number of further axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm


class GhostBatchNorm(torch.nn.Module):
    """Takes the place of `torch.nn.BatchNorm1d`, `2d` or `3d`, and has the same parameters and buffers.

    A microbatch that is a multiple of `virtual_size` gives each item the same result and leaves the same running means
    behind, to the bit, as any other cut at such multiples. Only the last group of a global batch may be smaller. In
    evaluation mode it is ordinary batch normalisation.
    """

    weight: torch.nn.Parameter
    bias: torch.nn.Parameter
    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def __init__(self, num_features: int, virtual_size: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        """Normalise `num_features` channels. `momentum` is the share that each group has in the running means.

        Raises:
            ValueError: a number is below 1, or momentum outside 0..1.
        """
        super().__init__()
        if num_features < 1 or virtual_size < 1 or not 0 <= momentum <= 1:
            raise ValueError(
                f"num_features and virtual_size must be at least 1 and momentum within 0..1, "
                f"got {num_features}, {virtual_size} and {momentum}"
            )
        self.num_features, self.virtual_size = num_features, virtual_size
        self.eps, self.momentum = eps, momentum
        self.weight = torch.nn.Parameter(torch.ones(num_features))
        self.bias = torch.nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return (B, C, ...) normalised.

        `mask`, bool (B, ...) without the channels, says where data is: what is padded takes no part in the statistics,
        and what comes out there means nothing. A group with fewer than two values per channel has no variance, and is
        normalised by the running means.
        """
        if not self.training:
            return functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        groups = _groups(x, self.virtual_size)
        masks: Sequence[torch.Tensor | None] = (
            [None] * len(groups) if mask is None else _groups(mask, self.virtual_size)
        )
        return torch.cat([self._normalised(group, own) for group, own in zip(groups, masks, strict=True)])

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.num_features}, virtual_size={self.virtual_size}, eps={self.eps}, momentum={self.momentum}"

    def _normalised(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        values = x.numel() // self.num_features if mask is None else int(mask.sum())
        if values < 2:
            return self._by_running_means(x)
        self.num_batches_tracked.add_(1)
        if mask is not None:
            return self._masked(x, mask.unsqueeze(1), values)
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, True, self.momentum, self.eps
        )

    def _by_running_means(self, x: torch.Tensor) -> torch.Tensor:
        return functional.batch_norm(
            x, self.running_mean.clone(), self.running_var.clone(), self.weight, self.bias, False, 0.0, self.eps
        )  # clones: later groups move the means in place, and the gradient wants them as they were

    def _masked(self, x: torch.Tensor, mask: torch.Tensor, values: int) -> torch.Tensor:
        axes, shape = [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))
        mean = x.masked_fill(~mask, 0.0).sum(dim=axes) / values
        centred = (x - mean.view(shape)).masked_fill(~mask, 0.0)
        variance = centred.square().sum(dim=axes) / values
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((variance * values / (values - 1)).to(self.running_var.dtype), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return centred * scale.view(shape) + self.bias.view(shape)


def with_ghost_batch_norm(network: torch.nn.Module, virtual_size: int) -> torch.nn.Module:
    """Return `network` with all its batch normalisation replaced, in place. Names and values of its weights stay.

    Raises:
        ValueError: a layer has no weights or running means of its own, or averages them without a momentum.
    """
    if isinstance(network, _BatchNorm):
        return _replacement(network, virtual_size)
    for name, child in network.named_children():
        try:
            setattr(network, name, with_ghost_batch_norm(child, virtual_size))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return network


def microbatch_multiple(network: torch.nn.Module, *, fixed_cut: bool = False) -> int:
    """Return what microbatches must be multiples of, so that the result does not depend on how a batch is cut.

    `fixed_cut`: it is always cut in the same way, so that ordinary batch normalisation has groups of a fixed size, too.

    Raises:
        ValueError: without a fixed cut, the network has ordinary batch normalisation in training mode.
    """
    sizes = [1]
    for name, module in network.named_modules():
        if isinstance(module, GhostBatchNorm) and module.training:
            sizes.append(module.virtual_size)
        elif isinstance(module, _BatchNorm) and module.training and not fixed_cut:
            raise ValueError(
                f"layer {name!r} is a {type(module).__name__}: what it learns would depend on how a batch is cut into "
                "microbatches; use batchd_server.models.ghost_batch_norm.GhostBatchNorm, or normalise over channels"
            )
    return math.lcm(*sizes)


def _groups(tensor: torch.Tensor, size: int) -> list[torch.Tensor]:
    return [tensor[begin : begin + size] for begin in range(0, len(tensor), size)]


def _replacement(layer: _BatchNorm, virtual_size: int) -> GhostBatchNorm:
    if layer.momentum is None or not layer.affine or not layer.track_running_stats:
        raise ValueError("only batch normalisation with weights, running means and a momentum can be replaced")
    ghost = GhostBatchNorm(layer.num_features, virtual_size, eps=layer.eps, momentum=layer.momentum)
    ghost.load_state_dict(layer.state_dict())
    return ghost.to(layer.weight.device, layer.weight.dtype).train(layer.training)
