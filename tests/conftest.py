"""What all tests share: steady hypothesis, no settings from the developer's shell, and reasons for what is skipped."""

from __future__ import annotations

import os
from functools import cache

import hypothesis
import pytest

# Without the explanation of a failure, which traces every line and takes minutes for a state machine.
PHASES = [phase for phase in hypothesis.Phase if phase is not hypothesis.Phase.explain]

# The same cases in every run: a red build must be red again tomorrow.
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None, print_blob=True, phases=PHASES)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000, phases=PHASES)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


@cache
def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none; torch is only asked if there is such a test."""
    for item in items:
        if item.get_closest_marker("gpu") and not _has_cuda():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True, scope="session")
def _settings_come_from_tests_alone() -> None:
    """Daemons and configurations under test must not pick up `BATCHD_SERVER__...` from the shell."""
    for name in [name for name in os.environ if name.startswith("BATCHD_") and "__" in name]:
        del os.environ[name]
