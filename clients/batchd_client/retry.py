"""Decides whether and when a call is tried again. Pure: time and chance come in.

Almost every call may be repeated: inference has no effects, loading a loaded model is no error, and a submitted job
carries a key. Those that may not say so (`Call.repeatable`), and are repeated only where the server has refused them.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how soon a call is tried again.

    Tried again are lost connections and the answers in `statuses`, unless the server says `x-should-retry: false`.
    The pause is drawn from [0, min(max_backoff_s, backoff_s * 2^(attempts - 1))] ("full jitter", so that clients that
    failed together do not return together); where the server names a pause, it is that and at most `backoff_s` more.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    Raises:
        ValueError: no attempt at all, or a negative time.
    """

    max_attempts: int = 3
    """1 = never again."""
    backoff_s: float = 0.1
    max_backoff_s: float = 5.0
    max_retry_after_s: float = 60.0
    """The call fails at once where the server asks for a longer pause."""
    statuses: frozenset[int] = frozenset({429, 503})
    rng: random.Random = field(default_factory=random.Random, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, not {self.max_attempts}")
        if min(self.backoff_s, self.max_backoff_s, self.max_retry_after_s) < 0:
            raise ValueError("back-off times must not be negative")

    def pause_s(self, attempts: int, *, asked_s: float | None, left_s: float | None) -> float | None:
        """Return the seconds to wait before the next attempt, or None to give up.

        `attempts` have been made, the server asks for a pause of `asked_s`, and `left_s` remain to the deadline: no
        pause is returned that would reach it.
        """
        if attempts >= self.max_attempts:
            return None
        if asked_s is None:
            # The exponent is bounded: 2.0**1024 overflows.
            ceiling = min(self.max_backoff_s, self.backoff_s * 2.0 ** min(attempts - 1, 64))
            pause = self.rng.uniform(0.0, ceiling)
        elif asked_s > self.max_retry_after_s:
            return None
        else:
            pause = asked_s + self.rng.uniform(0.0, self.backoff_s)
        return pause if pause < (math.inf if left_s is None else left_s) else None
