"""What goes to the server and what comes back, free of any HTTP library."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedRequest:
    """A request ready to be sent, as often as wanted.

    `path` starts with `/` and is relative to the server's base URL. `headers` lack what belongs to the connection
    (Host, Content-Length, Authorization). Where there is a `file`, its contents are the body, read as they are sent.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""
    file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A complete HTTP response."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    received: float
    """Seconds since the epoch: only for `Retry-After` dates that come without a `Date`."""

    @property
    def ok(self) -> bool:
        """Whether the server did as asked."""
        return 200 <= self.status < 300

    def header(self, name: str) -> str | None:
        """Return a header's value; `name` in lower case."""
        return find_header(self.headers, name)


def find_header(headers: Mapping[str, str], name: str) -> str | None:
    """Return a header's value from a mapping with keys in any case; `name` in lower case."""
    value = headers.get(name)
    if value is None:
        value = next((headers[key] for key in headers if key.lower() == name), None)
    return value


def model_path(model: str, version: str | None = None) -> str:
    """Return `/v2/models/M[/versions/V]`.

    Raises:
        ValueError: the name or the version cannot be part of a path.
    """
    if not {model, "1" if version is None else version}.isdisjoint({"", ".", ".."}):
        raise ValueError(f"model {model!r}, version {version!r}: empty, or the name of a folder")
    path = f"/v2/models/{quote(model, safe='')}"
    return path if version is None else f"{path}/versions/{quote(version, safe='')}"


def checked_timeout(timeout_s: float | None) -> float | None:
    """Return the deadline.

    Raises:
        ValueError: it is neither None nor a positive number of seconds.
    """
    if timeout_s is not None and not (timeout_s > 0 and math.isfinite(timeout_s)):
        raise ValueError(f"timeout_s must be a positive number of seconds, not {timeout_s!r}")
    return timeout_s
