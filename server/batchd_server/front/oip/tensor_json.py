"""Tensors as JSON: flat or nested lists in, flat lists out. No value is bent to fit: what does not fit is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from batchd_server.errors import BadRequest
from batchd_server.models.spec import NUMPY_DTYPES, Array

_FLOATS = frozenset({float, int})
_TYPES: dict[str, tuple[frozenset[type], str]] = {
    "b": (frozenset({bool}), "true or false"),
    "i": (frozenset({int}), "integers"),
    "u": (frozenset({int}), "integers"),
    "f": (_FLOATS, "numbers"),
    "O": (frozenset({str}), "strings"),
}


def decode_json(data: object, datatype: str, shape: Sequence[int], field: str) -> Array:
    """Return the tensor that `data` holds, row by row, flat or nested as `shape` says.

    Raises:
        BadRequest: another number of elements, ragged rows, elements of another type, or out of the datatype's range.
    """
    if datatype == "FP16":
        raise BadRequest("FP16 has no JSON form; send the tensor as binary data", field=field)
    dtype = NUMPY_DTYPES[datatype]
    flat = _flat(data, shape, field)
    accepted, described = _TYPES[dtype.kind]
    if not accepted.issuperset(map(type, flat)):
        index = next(index for index, value in enumerate(flat) if type(value) not in accepted)
        raise BadRequest(f"element {index} is not what {datatype} takes ({described})", field=field)
    if dtype.kind == "O":
        array = np.empty(len(flat), dtype=object)
        array[:] = [text.encode() for text in flat]
        return array.reshape(shape)
    if dtype.kind in "iu" and flat:
        range_of: np.iinfo[Any] = np.iinfo(datatype.lower())
        low, high = min(flat), max(flat)
        if low < range_of.min or high > range_of.max:
            raise BadRequest(f"{low if low < range_of.min else high} is out of the range of {datatype}", field=field)
    with np.errstate(over="ignore"):
        numbers = np.array(flat, dtype=dtype)
    if dtype.kind == "f" and not np.isfinite(numbers).all():  # JSON has no infinity: it came by rounding
        index = int(np.argmin(np.isfinite(numbers)))
        raise BadRequest(f"element {index} ({flat[index]}) is out of the range of {datatype}", field=field)
    return numbers.reshape(shape)


def encode_json(array: Array, datatype: str, field: str) -> Any:
    """Return `array` as what orjson writes as a flat list. NaN and infinities become null.

    Raises:
        BadRequest: no JSON can say it: FP16, or bytes that are not UTF-8.
    """
    if datatype == "FP16":
        raise BadRequest(f"output {field!r} is FP16, which has no JSON form; ask for binary data", field=field)
    flat = array.reshape(-1)
    if array.dtype != object:
        return np.ascontiguousarray(flat)
    try:
        return [value if isinstance(value, str) else bytes(value).decode() for value in flat.tolist()]
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"output {field!r} holds bytes that are not UTF-8; ask for binary data", field=field
        ) from error


def _flat(data: object, shape: Sequence[int], field: str) -> list[Any]:
    """Return the elements in row-major order; checks every level's length before it opens the next."""
    if type(data) is not list:
        raise BadRequest("data must be a list", field=field)
    count = math.prod(shape)
    if not (data and type(data[0]) is list):
        if len(data) != count:
            raise BadRequest(f"{len(data)} elements where shape {list(shape)} has {count}", field=field)
        return data
    level = [data]
    for axis, size in enumerate(shape):
        if not all(type(row) is list and len(row) == size for row in level):
            raise BadRequest(f"data is not nested as shape {list(shape)} says, at axis {axis}", field=field)
        level = list(chain.from_iterable(level))
    return level
