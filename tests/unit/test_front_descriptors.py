"""File descriptors for as many connections as are allowed."""

from __future__ import annotations

import resource

import pytest

from batchd_server.front.descriptors import OTHERS, allow_descriptors


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "warned"),
    [
        (1024, 4096, 1000 + OTHERS, False),
        (1024, resource.RLIM_INFINITY, 1000 + OTHERS, False),
        (1024, 1100, 1100, True),
        (10_000, 10_000, None, False),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None, False),
    ],
)
def test_the_soft_limit_is_raised_as_far_as_it_must_and_can(
    soft: int,
    hard: int,
    raised: int | None,
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: given.append(limits))
    allow_descriptors(1000)
    assert given == ([] if raised is None else [(raised, hard)])
    assert bool(caplog.records) == warned
