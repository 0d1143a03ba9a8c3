"""A change of a served model's weights, on its way between the threads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from batchd_server.errors import ServingError
from batchd_server.models.trainable import Trainable

if TYPE_CHECKING:  # the repository knows the executor's records, of which these are some
    from batchd_server.device.repository import Caller


@dataclass(frozen=True, slots=True)
class Promotion:
    """A change of a model's weights, for the executor. `job` is None where a promotion is undone."""

    caller: Caller
    model_name: str
    model: Trainable
    weights: Mapping[str, torch.Tensor]
    job: str | None
    step: int | None


@dataclass(frozen=True, slots=True)
class Adopted:
    """The executor has put the weights in place, or not: `problem` says why."""

    promotion: Promotion
    problem: str | None


@dataclass(frozen=True, slots=True)
class PromotionSettled:
    """The caller can be told."""

    promotion: Promotion | None
    caller: Caller
    error: ServingError | None
