"""A request that is one tensor and nothing else: `Inference-Header-Content-Length: 0`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from batchd_server.errors import BadRequest
from batchd_server.front.oip.request import HEADER_LENGTH, ParsedRequest
from batchd_server.front.oip.tensor_binary import decode_binary
from batchd_server.models.spec import Array, TensorSpec


def parse_raw_request(body: bytes, specs: Sequence[TensorSpec]) -> ParsedRequest:
    """Take the whole body as the one input of one item; all outputs are answered as binary data.

    A BYTES input is the body as one element, without a length before it. One variable axis takes the size that the
    body's length gives it.

    Raises:
        BadRequest: the model has several inputs or several variable axes, or the length fits no size.
    """
    if len(specs) != 1:
        raise BadRequest(
            f"a request without a JSON header needs a model with exactly one input; this one has {len(specs)}",
            field=HEADER_LENGTH,
        )
    spec = specs[0]
    return ParsedRequest(
        id=None,
        tensors=[(spec.name, _tensor(body, spec))],
        outputs=None,
        binary_output=True,
        timeout_us=None,
        priority=0,
    )


def _tensor(body: bytes, spec: TensorSpec) -> Array:
    variable = sum(isinstance(axis, str) for axis in spec.shape)
    fixed = math.prod(axis for axis in spec.shape if isinstance(axis, int))
    if spec.datatype == "BYTES":
        if variable or fixed != 1:
            raise BadRequest(f"input {spec.name!r} takes more than one BYTES element; send a JSON header", field="body")
        element = np.empty(1, dtype=object)
        element[0] = body
        return element.reshape([1] * (1 + len(spec.shape)))
    if variable > 1:
        raise BadRequest(
            f"input {spec.name!r} has several variable axes, whose sizes the body's length does not tell", field="body"
        )
    row = fixed * spec.dtype.itemsize
    if variable and len(body) % row:
        raise BadRequest(f"{len(body)} bytes are no multiple of the {row} of input {spec.name!r}", field="body")
    shape = [1, *(len(body) // row if isinstance(axis, str) else axis for axis in spec.shape)]
    return decode_binary(memoryview(body), spec.datatype, shape, "body")
