"""What an HTTP answer says beside its status: the server's own timing, or why it refused.

Tensors are not decoded: a load generator that did would measure itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from batchd_client.loadtest.sample import NO_TIMING, ServerTiming

_MAX_PARSED_BYTES = 65_536
"""Larger JSON answers are not parsed for their parameters; ask for binary outputs to have both."""


def timing_of(headers: Mapping[str, str], body: bytes) -> ServerTiming:
    """Read the batch size and the queue and compute times from the parameters of an answer, or from its headers."""
    parameters: dict[str, Any] = {}
    json_length = headers.get("inference-header-content-length")
    head = body[: int(json_length)] if json_length is not None and json_length.isdigit() else body
    if len(head) <= _MAX_PARSED_BYTES and b'"parameters"' in head:
        parameters = _object(_object(_parsed(head)).get("parameters"))
    batch_size = _number(parameters.get("batch_size", headers.get("x-batchd-batch-size")))
    queue_ms, compute_ms = _number(parameters.get("queue_ms")), _number(parameters.get("compute_ms"))
    if batch_size is None and queue_ms is None and compute_ms is None:
        return NO_TIMING
    return ServerTiming(
        batch_size=batch_size,
        queue_s=None if queue_ms is None else queue_ms / 1e3,
        compute_s=None if compute_ms is None else compute_ms / 1e3,
    )


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:  # an answer that is no JSON carries neither parameters nor codes
        return None


def _object(value: Any) -> dict[str, Any]:
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}


def _number(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None
