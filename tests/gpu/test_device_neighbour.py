"""Another process on the same CUDA device: what it holds is out of the budget, and what it frees comes back."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from batchd.budget import BudgetPolicy, budget_bytes
from batchd_server.config.settings import DeviceSettings
from batchd_server.device.selection import select_device

pytestmark = pytest.mark.gpu

NEIGHBOUR = textwrap.dedent("""
    import sys, torch
    free, total = torch.cuda.mem_get_info(0)
    block = torch.empty(min(total // 2, int(0.9 * free)), dtype=torch.uint8, device="cuda:0")
    print(block.numel(), flush=True)
    sys.stdin.read()
""")


@contextmanager
def neighbour() -> Iterator[int]:
    """Have a second process hold half of the device; yields the bytes."""
    process = subprocess.Popen(
        [sys.executable, "-c", NEIGHBOUR], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(60)


def test_the_budget_shrinks_by_what_a_neighbour_takes_and_grows_again_when_it_leaves() -> None:
    selected = select_device(DeviceSettings(name="cuda:0", memory_fraction=1.0))
    policy = BudgetPolicy(limit_fraction=1.0, safety_bytes=0)
    torch.cuda.empty_cache()

    def budget() -> int:
        found = budget_bytes(selected.telemetry.read(None).memory, policy)
        assert found is not None
        return found

    before = budget()
    with neighbour() as taken:
        during = budget()
    after = budget()
    context = 2 * 2**30  # the neighbour's own CUDA context comes on top
    assert taken <= before - during <= taken + context
    assert abs(after - before) < 0.02 * before
