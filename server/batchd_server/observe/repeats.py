"""Keeps a problem that repeats itself from flooding the log: some lines at once, then one per second with a count."""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

BURST = 20
PER_SECOND = 1.0
MAX_PROBLEMS = 1000
"""Kept apart at once; beyond that the one not seen for longest is forgotten."""
_ADDRESS = re.compile("0x[0-9a-f]+")


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled: float
    suppressed: int = 0


class Repeats:
    """A token bucket per problem. Two records are one problem if logger, template, exception, `model` and `code` agree.

    Of a template counts the first line without addresses: event loops write the transport that failed into theirs.
    Not thread-safe: the handler that asks holds its own lock.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets: OrderedDict[tuple[object, ...], _Bucket] = OrderedDict()

    def passed(self, record: logging.LogRecord) -> int | None:
        """Return how many lines like this one were left out before it; None where it is to be left out itself."""
        if record.levelno < logging.INFO:
            return 0  # whoever wants these wants all of them
        problem = _problem(record)
        now = self._clock()
        bucket = self._buckets.pop(problem, None) or _Bucket(tokens=BURST, filled=now)
        self._buckets[problem] = bucket
        if len(self._buckets) > MAX_PROBLEMS:
            self._buckets.popitem(last=False)
        bucket.tokens = min(float(BURST), bucket.tokens + (now - bucket.filled) * PER_SECOND)
        bucket.filled = now
        if bucket.tokens < 1.0:
            bucket.suppressed += 1
            return None
        bucket.tokens -= 1.0
        suppressed, bucket.suppressed = bucket.suppressed, 0
        return suppressed


def _problem(record: logging.LogRecord) -> tuple[object, ...]:
    kind = record.exc_info[0] if record.exc_info else None
    fields = vars(record)
    template = _ADDRESS.sub("0x", str(record.msg).partition("\n")[0])
    return record.name, record.levelno, template, kind, str(fields.get("model", "")), str(fields.get("code", ""))
