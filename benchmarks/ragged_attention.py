"""The text encoder on batches without padding: ways to attend among items that lie end to end, and padding beside them.

    python benchmarks/ragged_attention.py

Passages of log-normal length (median 24, at most 256) as in text_workload.py, drawn until a batch has so many tokens.
The linear layers run on the concatenation in every ragged way; only attention differs. Needs the extra text.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from batchd_server.models.spec import Tensors
from batchd_server.models.text_encoder import TextEncoder, ragged_attention
from batchd_server.models.text_encoder.ragged_attention import Attention, Spans

sys.path.insert(0, str(Path(__file__).parent))
from text_workload import token_count

Tensor = torch.Tensor


def attend_by_item(query: Tensor, key: Tensor, value: Tensor, spans: Spans, scale: float | None) -> Tensor:
    """One call per item."""
    attended = torch.empty_like(query)
    ends = spans.offsets.tolist()
    for begin, end in pairwise(ends):
        q, k, v = (x[begin:end].transpose(0, 1).unsqueeze(0) for x in (query, key, value))
        attended[begin:end] = scaled_dot_product_attention(q, k, v, scale=scale)[0].transpose(0, 1)
    return attended


@lru_cache(maxsize=1)
def same_item(offsets: Tensor) -> Tensor:
    """Which tokens belong to the same item, (T, T): made once per batch, as the layers share it."""
    numbers = torch.repeat_interleave(torch.arange(len(offsets) - 1), offsets.diff())
    return numbers.unsqueeze(1) == numbers


def attend_masked(query: Tensor, key: Tensor, value: Tensor, spans: Spans, scale: float | None) -> Tensor:
    """One call on everything, under a block-diagonal mask."""
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))
    found = scaled_dot_product_attention(q, k, v, attn_mask=same_item(spans.offsets), scale=scale)
    return found[0].transpose(0, 1)


def attend_padded(query: Tensor, key: Tensor, value: Tensor, spans: Spans, scale: float | None) -> Tensor:
    """Padding for the attention alone."""
    lengths = spans.offsets.diff()
    data = torch.arange(spans.longest) < lengths.unsqueeze(1)

    def pad(x: Tensor) -> Tensor:
        padded = x.new_zeros(len(lengths), spans.longest, *x.shape[1:])
        padded[data] = x
        return padded.transpose(1, 2)

    found = scaled_dot_product_attention(
        pad(query), pad(key), pad(value), attn_mask=data[:, None, None, :], scale=scale
    )
    return found.transpose(1, 2)[data]


WAYS: dict[str, Attention] = {
    "by length (used on the CPU)": ragged_attention.attend_by_length,
    "by item": attend_by_item,
    "padded for attention": attend_padded,
    "block-diagonal mask": attend_masked,
    "jagged nested tensors (used on CUDA)": ragged_attention.attend_jagged,
}


def passages(encoder: TextEncoder, tokens: int, seed: int) -> list[Tensors]:
    """Draw items until they have `tokens` together."""
    rng = random.Random(seed)  # noqa: S311 - a workload, not a secret
    items: list[Tensors] = []
    total = 0
    while total < tokens:
        length = token_count(rng)
        ids = np.array([rng.randrange(1000, 30000) for _ in range(length)], dtype=np.int64)
        items.append(encoder.preprocess({"input_ids": ids}))
        total += length
    return items


def timed(run: Callable[[list[Tensors]], None], items: list[Tensors], repeats: int) -> float:
    """Return the median milliseconds of `run(items)`, once warm."""
    run(items)
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        run(items)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds) * 1e3


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 512, 2048])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)  # torch calls nested tensors a prototype
    torch.set_num_threads(1)
    encoder = TextEncoder()
    encoder.load(torch.device("cpu"))

    def padded(items: list[Tensors]) -> None:
        longest = max(encoder.num_tokens(item) for item in items)
        encoder.split(encoder.run(encoder.collate(items, (longest,))), items)

    def ragged(items: list[Tensors]) -> None:
        encoder.split(encoder.run(encoder.collate_ragged(items)), items)

    def one_by_one(items: list[Tensors]) -> None:
        for item in items:
            padded([item])

    batches = {tokens: passages(encoder, tokens, arguments.seed) for tokens in arguments.tokens}
    found: dict[str, dict[int, float]] = {}
    with torch.no_grad():
        for tokens, items in batches.items():
            found.setdefault("padded, one batch", {})[tokens] = timed(padded, items, arguments.repeats)
            found.setdefault("padded, one by one", {})[tokens] = timed(one_by_one, items, arguments.repeats)
            for name, way in WAYS.items():
                with mock.patch.object(ragged_attention, "attention_for", lambda _, way=way: way):
                    found.setdefault(name, {})[tokens] = timed(ragged, items, arguments.repeats)
            equal = [encoder.example(32)] * (tokens // 32)
            found.setdefault("32 tokens each: padded", {})[tokens] = timed(padded, equal, arguments.repeats)
            found.setdefault("32 tokens each: by length", {})[tokens] = timed(ragged, equal, arguments.repeats)
    header = "".join(f"{sum(map(encoder.num_tokens, items)):>8} in {len(items):<3}" for items in batches.values())
    print(f"{'ms a batch; tokens in items':<38}{header}")
    for name, row in found.items():
        print(f"{name:<38}" + "".join(f"{row[tokens]:>11.0f}   " for tokens in arguments.tokens))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
