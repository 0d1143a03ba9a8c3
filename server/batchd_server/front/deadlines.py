"""How long a client is willing to wait, from where it may say so."""

from __future__ import annotations

import re

from batchd_server.errors import BadRequest

TIMEOUT_HEADER = "X-Request-Timeout-Ms"
TIMEOUT_SCHEMA = {"type": "number", "exclusiveMinimum": 0, "description": "Deadline in milliseconds from now."}
_MILLISECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,6})?", re.ASCII)


def explicit_timeout_s(timeout_us: int | None, header: str | None, limit_s: float) -> float | None:
    """Return the timeout that the client named, at most `limit_s`; None where it named none.

    The protocol's own parameter in microseconds goes before the header in milliseconds. A parameter of 0 names none:
    clients send it as their default.

    Raises:
        BadRequest: a header that is not a positive number.
    """
    if timeout_us:
        return min(timeout_us / 1e6, limit_s)
    if header is None:
        return None
    text = header.strip()
    if not _MILLISECONDS.fullmatch(text) or float(text) <= 0:
        raise BadRequest(f"{TIMEOUT_HEADER} must be a positive number of milliseconds", field=TIMEOUT_HEADER)
    return min(float(text) / 1e3, limit_s)
