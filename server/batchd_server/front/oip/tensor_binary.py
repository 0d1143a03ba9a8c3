"""Tensors as raw bytes: little endian, row-major; BOOL one byte, BYTES elements behind their u32 length."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np

from batchd_server.errors import BadRequest
from batchd_server.models.spec import NUMPY_DTYPES, Array

_LENGTH = struct.Struct("<I")


def decode_binary(data: memoryview, datatype: str, shape: Sequence[int], field: str) -> Array:
    """Return the tensor that `data` holds in whole. Read-only and without a copy where alignment allows.

    Raises:
        BadRequest: `data` is longer or shorter than `shape` says, or holds what BOOL or BYTES cannot.
    """
    dtype = NUMPY_DTYPES[datatype]
    count = math.prod(shape)
    if dtype.kind == "O":
        return _decode_bytes(data, count, field).reshape(shape)
    if len(data) != count * dtype.itemsize:
        raise BadRequest(
            f"{len(data)} bytes where {datatype} of shape {list(shape)} has {count * dtype.itemsize}", field=field
        )
    if dtype.kind == "b" and data and max(data) > 1:
        raise BadRequest("BOOL elements must be bytes of 0 or 1", field=field)
    array = np.frombuffer(data, dtype=dtype.newbyteorder("<"))
    if not array.flags.aligned:
        array = array.copy()
    return array.astype(dtype, copy=False).reshape(shape)


def encode_binary(array: Array) -> bytes:
    """Return the bytes of `array`; BYTES tensors have dtype object and hold `bytes` or `str`."""
    if array.dtype != object:
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    parts: list[bytes] = []
    for value in array.reshape(-1).tolist():
        element = value.encode() if isinstance(value, str) else bytes(value)
        parts += (_LENGTH.pack(len(element)), element)
    return b"".join(parts)


def _decode_bytes(data: memoryview, count: int, field: str) -> Array:
    if count * _LENGTH.size > len(data):
        raise BadRequest(f"{len(data)} bytes cannot hold {count} BYTES elements", field=field)
    elements = np.empty(count, dtype=object)
    offset = 0
    for index in range(count):
        start = offset + _LENGTH.size
        if start > len(data):
            raise BadRequest(f"BYTES element {index} is truncated", field=field)
        offset = start + _LENGTH.unpack_from(data, offset)[0]
        if offset > len(data):
            raise BadRequest(f"BYTES element {index} reaches beyond the tensor's end", field=field)
        elements[index] = bytes(data[start:offset])
    if offset != len(data):
        raise BadRequest(f"{len(data) - offset} bytes follow the last BYTES element", field=field)
    return elements
