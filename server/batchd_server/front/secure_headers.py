"""What browsers are told not to do with an answer."""

from __future__ import annotations

from collections.abc import Iterable

Header = tuple[bytes, bytes]

_EVERY: tuple[Header, ...] = ((b"x-content-type-options", b"nosniff"),)
_SHOWN: tuple[Header, ...] = (
    *_EVERY,
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)


def secure_headers(method: str, given: Iterable[Header]) -> list[Header]:
    """Return the headers to add to an answer that has those `given`; a page's own policy stays.

    The answer to a POST is shown by no browser and kept by no cache, and is what must be quick: it gets the least.
    """
    if method == "POST":
        return list(_EVERY)
    present = {name for name, _ in given}
    return [header for header in _SHOWN if header[0] not in present]
