"""Tells the shedding rule what becomes of the requests that are offered to the device process."""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager

from starlette.requests import Request

from batchd_server.errors import DeadlineExceeded, DeadlineInfeasible, ModelFailed, QueueFull
from batchd_server.front.oip.request import HEADER_LENGTH
from batchd_server.front.shedding import Attempt, Kind, Shedding, kind_of

_HEADER_LENGTH = HEADER_LENGTH.lower().encode()
_PLAIN = (b"", b"identity")
_chance = random.Random()  # noqa: S311 - to spread clients, not secrets


@contextmanager
def attempted(
    shedding: Shedding, request: Request, *, model: str, api: str, priority: int, timeout_s: float | None
) -> Generator[None]:
    """Tell `shedding` what becomes of a request that is now offered to the device process.

    A refusal for want of room leaves with the pause that it should ask for.
    """
    begun = time.monotonic()
    attempt: Attempt | None = request.scope["state"].get("attempt")
    if attempt is not None:
        attempt.since = begun
    admitted = False
    try:
        yield
        admitted = True
    except (QueueFull, DeadlineInfeasible) as error:
        if attempt is None:
            headers = dict(request.scope["headers"])
            attempt = Attempt(request_kind(headers, model, api, priority, declared_bytes(headers), timeout_s), begun)
        error.retry_after_s = shedding.refused(attempt, error, time.monotonic(), _chance.random())
        raise
    except (DeadlineExceeded, ModelFailed):
        admitted = True
        raise
    finally:
        if attempt is not None:
            shedding.settled(attempt, time.monotonic(), admitted=admitted)
        elif admitted:
            shedding.admitted(model, time.monotonic())


def request_kind(
    headers: Mapping[bytes, bytes], model: str, api: str, priority: int, num_bytes: int, timeout_s: float | None
) -> Kind:
    """Return the kind of a request of `num_bytes`, of which the rest has been read from its body."""
    form = f"{api} binary" if _HEADER_LENGTH in headers else api
    return kind_of(model, form, priority, num_bytes, timeout_s)


def declared_bytes(headers: Mapping[bytes, bytes]) -> int:
    """Return the length that a request declares for its body; -1 where it declares none, or sends it compressed."""
    length = headers.get(b"content-length", b"")
    plain = headers.get(b"content-encoding", b"").strip().lower() in _PLAIN
    return int(length) if plain and length.isdigit() and len(length) <= 18 else -1
