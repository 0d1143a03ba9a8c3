"""The server under test, and how it is reached."""

from __future__ import annotations

from dataclasses import dataclass, field

import httpx

from batchd_client.httpx_bridge import call_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where requests go. Nothing is ever retried.

    Raises:
        ValueError: the URL or the key cannot be used, or a limit is not positive.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float = 30.0
    """The generator gives up on an answer this long after sending."""
    max_connections: int = 768

    def __post_init__(self) -> None:
        call_settings(self.url, api_key=self.api_key, retry=None, read_timeout_s=None)
        if not self.timeout_s > 0 or self.max_connections < 1:
            raise ValueError("the timeout and the number of connections must be positive")

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request."""
        return dict(call_settings(self.url, api_key=self.api_key, retry=None, read_timeout_s=None).headers)

    def address(self, path: str) -> httpx.URL:
        """Return the URL of `path`, below the base path if there is one."""
        return httpx.URL(self.url.rstrip("/") + path)
