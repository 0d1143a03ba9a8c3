"""Asks the daemon over its own HTTP whether it is ready: what a client would see, not what processes claim."""

from __future__ import annotations

import asyncio
import http.client
import json
from typing import Any
from urllib.parse import urlsplit

POLL_S = 0.1
TIMEOUT_S = 2.0


async def ready(url: str) -> None:
    """Return once the readiness route answers 200."""
    while await asyncio.to_thread(_status_of, url, "/v2/health/ready") != 200:  # noqa: ASYNC110 - no event here
        await asyncio.sleep(POLL_S)


async def device_name(url: str, key: str | None) -> str | None:
    """Return the device that the status route names to who shows `key`; None where it does not."""
    body = await asyncio.to_thread(_json_of, url, "/v1/status", key)
    device = body.get("device") if isinstance(body, dict) else None
    name = device.get("name") if isinstance(device, dict) else None
    return name if isinstance(name, str) else None


def _status_of(url: str, path: str) -> int | None:
    found = _get(url, path)
    return None if found is None else found[0]


def _json_of(url: str, path: str, key: str | None) -> Any:
    found = _get(url, path, key)
    if found is None or found[0] != 200:
        return None
    try:
        return json.loads(found[1])
    except ValueError:
        return None


def _get(url: str, path: str, key: str | None = None) -> tuple[int, bytes] | None:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path, headers={} if key is None else {"Authorization": f"Bearer {key}"})
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):  # no front process accepts yet
        return None
    finally:
        connection.close()
