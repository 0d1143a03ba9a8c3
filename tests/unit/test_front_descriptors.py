"""File descriptors for as many connections as are allowed."""

from __future__ import annotations

import resource

import pytest

from batchd_server.front.connection_watch import MAX_TURNED_AWAY
from batchd_server.front.descriptors import allow_descriptors

MARGIN = 200
"""What uploads, the store, the link and the log need beside connections."""


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "warned"),
    [
        (1024, 4096, True, False),
        (1024, resource.RLIM_INFINITY, True, False),
        (1024, 1100, True, True),
        (10_000, 10_000, False, False),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, False, False),
    ],
)
def test_the_soft_limit_is_raised_as_far_as_it_must_and_can(
    soft: int,
    hard: int,
    raised: bool,
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: given.append(limits))
    allow_descriptors(1000)
    assert len(given) == raised
    for raised_to, kept in given:
        assert kept == hard
        assert raised_to == hard if warned else raised_to >= 1000 + MAX_TURNED_AWAY + MARGIN
    assert bool(caplog.records) == warned
