"""The byte ledger against what torch really allocates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from batchd_server.device.memory.ledger import AllocationLedger

KIB = 1024


def test_live_returns_to_nothing_and_the_peak_stays() -> None:
    with torch.no_grad(), AllocationLedger() as ledger:
        a = torch.zeros(256)  # 1 KiB
        b = a + 1
        assert ledger.live == 2 * KIB
        del a, b
        assert ledger.live == 0
    assert ledger.peak == 2 * KIB


def test_views_and_in_place_operations_take_nothing() -> None:
    with torch.no_grad(), AllocationLedger() as ledger:
        a = torch.zeros(16, 16)
        views = (a.T, a[3:], a.reshape(-1), a.add_(1))
        assert ledger.peak == KIB
        assert all(view.untyped_storage().data_ptr() == a.untyped_storage().data_ptr() for view in views)


def test_weights_that_were_there_before_are_not_counted() -> None:
    network = torch.nn.Linear(64, 64)
    x = torch.zeros(1, 64)
    with torch.no_grad(), AllocationLedger() as ledger:
        network(x)
    assert ledger.peak == 64 * 4


def test_a_network_peaks_at_its_widest_place() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(8, 512), torch.nn.ReLU(), torch.nn.Linear(512, 8))
    x = torch.zeros(4, 8)
    with torch.no_grad(), AllocationLedger() as ledger:
        network(x)
    assert ledger.peak == 2 * 4 * 512 * 4, "the hidden layer before and after the activation"


def test_a_batch_made_of_numpy_arrays_is_adopted() -> None:
    @dataclass
    class Batch:
        tensors: dict[str, torch.Tensor]
        mask: list[torch.Tensor]

    with torch.no_grad(), AllocationLedger() as ledger:
        batch = Batch({"x": torch.from_numpy(np.zeros(256, np.float32))}, [torch.from_numpy(np.ones(1024, np.uint8))])
        ledger.adopt(batch)
        assert ledger.live == 2 * KIB
        del batch
        assert ledger.live == 0


def test_a_limited_ledger_is_a_small_device() -> None:
    with torch.no_grad(), AllocationLedger(limit_bytes=4 * KIB) as ledger:
        torch.zeros(512)
        with pytest.raises(torch.OutOfMemoryError, match="the limit is 4096"):
            torch.zeros(2048)
        assert ledger.live == 0
        torch.zeros(1024)
