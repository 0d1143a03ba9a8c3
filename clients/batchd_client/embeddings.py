"""`/v1/embeddings`, with vectors as base64 of little-endian float32."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from batchd_client.errors import ProtocolError
from batchd_client.json_object import JsonObject, as_list, as_object, member, parse_object
from batchd_client.tensor_codec import decode_json
from batchd_client.wire import EncodedRequest

_WIRE_FLOAT = np.dtype("<f4")


def encode_embed(body: bytes, timeout_s: float | None) -> EncodedRequest:
    """Return the request with its deadline `timeout_s` from now, without one for None."""
    headers = {"content-type": "application/json"}
    if timeout_s is not None:
        headers["x-request-timeout-ms"] = str(math.ceil(timeout_s * 1000))
    return EncodedRequest(method="POST", path="/v1/embeddings", headers=headers, body=body)


def embed_body(model: str, texts: Sequence[str], dimensions: int | None) -> bytes:
    """Return the JSON body of a request.

    Raises:
        ValueError: there is no text, or an empty one.
    """
    if not texts or not all(texts):
        raise ValueError("embed needs at least one text, and none of them empty")
    body: JsonObject = {"model": model, "input": list(texts), "encoding_format": "base64"}
    if dimensions is not None:
        body["dimensions"] = dimensions
    return json.dumps(body).encode("ascii")


def decode_embeddings(body: bytes, num_texts: int) -> npt.NDArray[np.float32]:
    """Return one row per text, in the order of the texts.

    Raises:
        ProtocolError: the answer is not one vector of the same length for each text.
    """
    rows: dict[int, npt.NDArray[np.float32]] = {}
    entries = as_list(parse_object(body).get("data"), "'data'")
    for value in entries:
        entry = as_object(value, "an embedding")
        rows[member(entry, "index", int, "an embedding")] = _vector(entry.get("embedding"))
    if len(entries) != num_texts or sorted(rows) != list(range(num_texts)):
        raise ProtocolError(f"the answer does not hold one embedding for each of {num_texts} texts")
    if len({row.shape for row in rows.values()}) != 1:
        raise ProtocolError("the embeddings differ in length")
    return np.stack([rows[index] for index in range(num_texts)]).astype(np.float32, copy=False)


def _vector(value: Any) -> npt.NDArray[np.float32]:
    """Decode base64, or take the plain list that servers without base64 send."""
    if isinstance(value, str):
        try:
            return np.frombuffer(base64.b64decode(value, validate=True), _WIRE_FLOAT)
        except (binascii.Error, ValueError):
            raise ProtocolError("an embedding is not base64 of float32 values") from None
    return decode_json("FP32", (len(as_list(value, "an embedding")),), value)
