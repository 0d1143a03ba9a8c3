"""Makes the optimizers that jobs name, with their state allocated beforehand, and lends them a step's learning rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from batchd.lr_rules import LRChange
from batchd_server.training.job_spec import OptimizerSpec


def make_optimizer(spec: OptimizerSpec, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Return an optimizer whose state lies on the device already: no step allocates it, and none can fail half-way.

    torch's own are fused where the device allows: one operation in place, which needs no memory of its own.

    Raises:
        ValueError: LARS or LAMB without the extra that brings them.
    """
    optimizer = _make(spec, parameters)
    _allocate_state(optimizer)
    return optimizer


def state_tensors(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    """Yield what an optimizer holds on the device."""
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, torch.Tensor))


@contextmanager
def changed_rate(optimizer: torch.optim.Optimizer, change: LRChange) -> Iterator[None]:
    """Use a learning-rate rule's factor and coefficients for the step inside, and take them back after it."""
    kept: list[dict[str, Any]] = [
        {name: group[name] for name in ("lr", "betas", "eps") if name in group} for group in optimizer.param_groups
    ]
    try:
        for group in optimizer.param_groups:
            group["lr"] *= change.lr
            if change.betas is not None and "betas" in group:
                group["betas"] = change.betas
            if change.eps is not None and "eps" in group:
                group["eps"] = change.eps
        yield
    finally:
        for group, values in zip(optimizer.param_groups, kept, strict=True):
            group.update(values)


def _make(spec: OptimizerSpec, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
    fused = all(parameter.device.type in {"cpu", "cuda"} for parameter in parameters)
    decay = spec.weight_decay
    match spec.name:
        case "sgd":
            return torch.optim.SGD(parameters, spec.lr, momentum=spec.momentum, weight_decay=decay, fused=fused)
        case "adam":
            return torch.optim.Adam(parameters, spec.lr, spec.betas, spec.eps, decay, fused=fused)
        case "adamw":
            return torch.optim.AdamW(parameters, spec.lr, spec.betas, spec.eps, decay, fused=fused)
        case "lars":
            return _from_the_extra("LARS")(parameters, lr=spec.lr, momentum=spec.momentum, weight_decay=decay)
        case "lamb":
            return _from_the_extra("Lamb")(parameters, lr=spec.lr, betas=spec.betas, eps=spec.eps, weight_decay=decay)


def _from_the_extra(name: str) -> Callable[..., torch.optim.Optimizer]:
    try:
        import pytorch_optimizer  # noqa: PLC0415 - installed by the extra
    except ModuleNotFoundError:
        raise ValueError(f"{name} needs batchd's extra [train], which is not installed") from None
    made: Callable[..., torch.optim.Optimizer] = getattr(pytorch_optimizer, name)
    return made


def _allocate_state(optimizer: torch.optim.Optimizer) -> None:
    """Take a step of nothing, and forget that it was taken."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    with changed_rate(optimizer, LRChange(0.0)):
        optimizer.step()
    for parameter in parameters:
        parameter.grad = None
    for tensor in state_tensors(optimizer):
        tensor.zero_()
    for holder in (*optimizer.param_groups, *optimizer.state.values()):
        if isinstance(holder.get("step"), (int, float)):
            holder["step"] = 0
