"""The sampler in a plain `torch.utils.data.DataLoader`, with and without worker processes, stopped and resumed."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from batchd.sampler import BucketBatchSampler, ElementBudget

LENGTHS = np.clip(np.random.default_rng(2).lognormal(3, 0.8, 400).round(), 1, 200).astype(int).tolist()
LIMIT = ElementBudget(elements=600, max_items=24)


class Sequences(Dataset[tuple[int, torch.Tensor]]):
    """Item i is `LENGTHS[i]` times the number i."""

    def __len__(self) -> int:
        return len(LENGTHS)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
        return index, torch.full((LENGTHS[index],), index)


def padded(items: list[tuple[int, torch.Tensor]]) -> tuple[list[int], torch.Tensor]:
    batch = torch.nn.utils.rnn.pad_sequence([row for _, row in items], batch_first=True, padding_value=-1)
    return [index for index, _ in items], batch


def loader(sampler: BucketBatchSampler, num_workers: int) -> DataLoader[tuple[int, torch.Tensor]]:
    return DataLoader(Sequences(), batch_sampler=sampler, num_workers=num_workers, collate_fn=padded)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_comes_through_whole_and_within_its_budget(num_workers: int) -> None:
    sampler = BucketBatchSampler(LENGTHS, LIMIT, seed=6, multiple=8)
    batches = loader(sampler, num_workers)
    promised = len(batches)
    seen: list[int] = []
    count = 0
    for indices, batch in batches:
        assert batch.numel() <= LIMIT.elements
        assert [int((row >= 0).sum()) for row in batch] == [LENGTHS[index] for index in indices]
        seen += indices
        count += 1
    assert count == promised
    assert Counter(seen) == Counter(range(len(LENGTHS)))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_stopped_in_the_middle_goes_on_where_training_was_not_where_prefetching_was(num_workers: int) -> None:
    whole = [indices for indices, _ in loader(BucketBatchSampler(LENGTHS, LIMIT, seed=6), 0)]
    sampler = BucketBatchSampler(LENGTHS, LIMIT, seed=6)
    used: list[list[int]] = []
    for indices, _ in loader(sampler, num_workers):
        used.append(indices)
        if len(used) == len(whole) // 3:
            break
    consumed = sum(map(len, used))
    assert sampler.consumed > consumed if num_workers else sampler.consumed == consumed  # workers had drawn ahead
    state = json.dumps(sampler.state_dict(consumed=consumed))

    resumed = BucketBatchSampler(LENGTHS, LIMIT, seed=0)
    resumed.load_state_dict(json.loads(state))
    resumed.set_epoch(0)
    rest = loader(resumed, num_workers)
    assert len(rest) == len(whole) - len(used)
    used += [indices for indices, _ in rest]
    assert used == whole


@pytest.mark.parametrize("num_workers", [0, 2])
def test_epochs_differ_without_anyone_setting_them(num_workers: int) -> None:
    """Forgetting `set_epoch` is a mistake that repeats one order for ever elsewhere."""
    sampler = BucketBatchSampler(LENGTHS, 16, seed=6)
    batches = loader(sampler, num_workers)
    epochs = [[indices for indices, _ in batches] for _ in range(2)]
    assert epochs[0] != epochs[1]
    assert sampler.epoch == 1
    assert all(Counter(index for batch in epoch for index in batch) == Counter(range(400)) for epoch in epochs)
