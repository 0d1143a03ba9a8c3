"""What the load tester asks the server before and after a run. Asked once each; nothing is retried."""

from __future__ import annotations

import httpx

from batchd_client.async_client import AsyncClient
from batchd_client.errors import BatchdError
from batchd_client.loadtest.server_statistics import Reading, parse_padding
from batchd_client.loadtest.target import Target
from batchd_client.metadata import ModelMetadata
from batchd_client.retry import RetryPolicy

_TIMEOUT_S = 10.0


def _client(target: Target) -> AsyncClient:
    return AsyncClient(target.url, api_key=target.api_key, retry=RetryPolicy(max_attempts=1), read_timeout_s=_TIMEOUT_S)


async def model_metadata(target: Target, model: str) -> ModelMetadata:
    """Return what the model takes.

    Raises:
        BatchdError: no connection, or not the answer that was asked for.
    """
    async with _client(target) as client:
        return await client.model_metadata(model)


async def only_model(target: Target) -> str:
    """Return the name of the one model that is ready.

    Raises:
        ValueError: there is none, or more than one: the user must choose.
        BatchdError: no connection, or not the answer that was asked for.
    """
    async with _client(target) as client:
        ready = [entry.name for entry in await client.models() if entry.state == "READY"]
    if len(ready) == 1:
        return ready[0]
    raise ValueError(f"give --model: the server has {', '.join(ready) if ready else 'no model that is ready'}")


async def model_statistics(target: Target, model: str) -> Reading | None:
    """Return what the server has counted for the model; None where it has nothing to give."""
    try:
        async with _client(target) as client:
            statistics = await client.statistics(model)
    except BatchdError:
        return None
    return Reading(statistics=statistics, padding=await _padding(target, model))


async def _padding(target: Target, model: str) -> tuple[float, float] | None:
    """Ask for the metrics of batchd, which other servers of the protocol do not have."""
    try:
        async with httpx.AsyncClient(headers=target.headers, timeout=_TIMEOUT_S, trust_env=False) as client:
            response = await client.get(target.address("/metrics"))
    except httpx.HTTPError:
        return None
    return parse_padding(response.text, model) if response.is_success else None
