"""Attention among items that lie end to end: every token sees the tokens of its own item and no others.

Hooked into transformers as an attention implementation, so that the rest of the network is transformers' own and takes
the concatenation as one long item. Shapes: T tokens in all, B items, H heads, K dimensions of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

IMPLEMENTATION = "batchd_ragged"
"""Its name among transformers' implementations. Without `spans` it is the ordinary fused attention."""


@dataclass(frozen=True, slots=True)
class Spans:
    """Where the items of a concatenation lie. Items of equal length lie side by side."""

    runs: tuple[tuple[int, int], ...]
    """(items, length of each), in order."""
    offsets: torch.Tensor
    """int64 (B + 1,), on the device."""

    @property
    def longest(self) -> int:
        """Tokens of the longest item."""
        return max(length for _, length in self.runs)


Attention: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Spans, float | None], torch.Tensor]
"""(query, key, value: (T, H, K); spans; scale) -> (T, H, K)."""


def attend_by_length(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, spans: Spans, scale: float | None
) -> torch.Tensor:
    """One call per length that occurs: items of equal length are a batch without padding and without a copy."""
    attended = torch.empty_like(query)
    start = 0
    for items, length in spans.runs:
        end = start + items * length
        q, k, v = (x[start:end].view(items, length, *x.shape[1:]).transpose(1, 2) for x in (query, key, value))
        found = scaled_dot_product_attention(q, k, v, scale=scale)
        attended[start:end] = found.transpose(1, 2).reshape(end - start, *query.shape[1:])
        start = end
    return attended


def attend_jagged(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, spans: Spans, scale: float | None
) -> torch.Tensor:
    """One call on nested tensors of the jagged layout, for which CUDA has fused kernels."""
    shortest, longest = min(length for _, length in spans.runs), spans.longest
    q, k, v = (
        torch.nested.nested_tensor_from_jagged(
            x.contiguous(), spans.offsets, min_seqlen=shortest, max_seqlen=longest
        ).transpose(1, 2)
        for x in (query, key, value)
    )
    found = scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2)
    values: torch.Tensor = found.values()
    return values


def attention_for(device: torch.device) -> Attention:
    """Return what is used on `device`. On the CPU the jagged layout has no fused kernel; see docs/performance.md."""
    return attend_jagged if device.type == "cuda" else attend_by_length


def forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    spans: Spans | None = None,
    scaling: float | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as transformers asks: (1, H, T, K) with `spans`, (B, H, L, K) without; returns the heads last but one."""
    if spans is None:
        padded, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **rest)
        return padded, None
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return attention_for(query.device)(q, k, v, spans, scaling).unsqueeze(0), None


AttentionInterface.register(IMPLEMENTATION, forward)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
