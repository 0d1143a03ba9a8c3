"""Puts other weights into a network that is being served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a front process constructs models without importing torch
    import torch


def replace_weights(network: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy `weights`, from any device, into a network's parameters and buffers: all of them, or none.

    Raises:
        ValueError: a name is missing or unknown, or a tensor has another shape.
    """
    own = network.state_dict()
    if missing := sorted(own.keys() - weights.keys()):
        raise ValueError(f"the weights lack {', '.join(missing)}")
    if unknown := sorted(weights.keys() - own.keys()):
        raise ValueError(f"the weights have {', '.join(unknown)}, which this network has not")
    for name, tensor in own.items():
        if tensor.shape != weights[name].shape:
            raise ValueError(f"{name!r} must have shape {list(tensor.shape)}, got {list(weights[name].shape)}")
    network.load_state_dict(weights)
