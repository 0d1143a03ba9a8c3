"""Tensors of the Open Inference Protocol as numpy arrays: binary (little-endian, row-major) and JSON.

Encoding takes the caller's arrays and raises ValueError; decoding takes what a server sent and raises ProtocolError,
whatever the server claims.
"""

from __future__ import annotations

import math
from itertools import chain
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from batchd_client.errors import ProtocolError
from batchd_client.json_object import as_list

Array: TypeAlias = npt.NDArray[Any]

WIRE_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""Datatypes of fixed size as they lie on the wire. BYTES stands beside them."""

_DATATYPES = {(dtype.kind, dtype.itemsize): name for name, dtype in WIRE_DTYPES.items()}
_JSON_TYPES: dict[str, set[type]] = {"b": {bool}, "i": {int}, "u": {int}, "f": {int, float, type(None)}}
_LENGTH_BYTES = 4  # each BYTES element follows its length, an unsigned 32-bit integer
_TEXT_KINDS = "SUTO"  # numpy's bytes, str, variable-width string and object arrays


def as_array(value: npt.ArrayLike) -> Array:
    """Return an array of the value, keeping strings whole (numpy's own string types drop trailing NULs)."""
    if isinstance(value, np.ndarray):
        return cast(Array, value)
    array = np.asarray(value)
    return np.asarray(value, dtype=object) if array.dtype.kind in "SU" else array


def datatype_of(array: Array) -> str:
    """Return the protocol's name for an array's dtype.

    Raises:
        ValueError: the protocol has none.
    """
    if array.dtype.kind in _TEXT_KINDS:
        return "BYTES"
    datatype = _DATATYPES.get((array.dtype.kind, array.dtype.itemsize))
    if datatype is None:
        raise ValueError(f"dtype {array.dtype} has no counterpart in the protocol ({', '.join(WIRE_DTYPES)}, BYTES)")
    return datatype


def encode_binary(array: Array) -> bytes | memoryview:
    """Return the array's bytes on the wire, sharing its memory where its layout allows.

    Raises:
        ValueError: an unsupported dtype, or an element of an object array is neither bytes nor str.
    """
    datatype = datatype_of(array)
    if datatype == "BYTES":
        texts = _texts(array)
        return b"".join(chain.from_iterable((len(text).to_bytes(_LENGTH_BYTES, "little"), text) for text in texts))
    return np.ascontiguousarray(array, dtype=WIRE_DTYPES[datatype]).reshape(-1).view(np.uint8).data


def encode_json(array: Array) -> list[Any]:
    """Return the array's elements as flat JSON values.

    Raises:
        ValueError: FP16, which must not go through JSON; NaN or infinities, which JSON lacks; bytes that are not UTF-8.
    """
    datatype = datatype_of(array)
    if datatype == "FP16":
        raise ValueError("FP16 tensors can only be sent in binary")
    if datatype == "BYTES":
        return [text.decode("utf-8") for text in _texts(array)]
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("NaN and infinities can only be sent in binary")
    return array.reshape(-1).tolist()


def _texts(array: Array) -> list[bytes]:
    texts: list[bytes] = []
    for element in cast(list[object], array.reshape(-1).tolist()):
        if isinstance(element, str):
            texts.append(element.encode("utf-8"))
        elif isinstance(element, bytes):
            texts.append(element)
        else:
            raise ValueError(f"an element of an object array is neither bytes nor str, but {type(element).__name__}")
    return texts


def decode_binary(datatype: str, shape: tuple[int, ...], raw: memoryview) -> Array:
    """Return a read-only array over `raw`; BYTES become an object array of bytes.

    Raises:
        ProtocolError: datatype, shape and bytes do not belong together.
    """
    size = math.prod(shape)
    if datatype == "BYTES":
        return _shaped(_decode_bytes_elements(size, raw), shape)
    dtype = _wire_dtype(datatype)
    if size * dtype.itemsize != len(raw):
        raise ProtocolError(f"shape {list(shape)} of {datatype} needs {size * dtype.itemsize} bytes, not {len(raw)}")
    if datatype == "BOOL" and np.frombuffer(raw, np.uint8).max(initial=0) > 1:
        raise ProtocolError("a BOOL element is neither 0 nor 1")
    return _shaped(np.frombuffer(raw, dtype), shape)


def _decode_bytes_elements(size: int, raw: memoryview) -> Array:
    if size * _LENGTH_BYTES > len(raw):
        raise ProtocolError(f"{len(raw)} bytes cannot hold {size} elements of BYTES")
    elements = np.empty(size, dtype=object)
    start = 0
    for index in range(size):
        begin = start + _LENGTH_BYTES
        end = begin + int.from_bytes(raw[start:begin], "little")
        if begin > len(raw) or end > len(raw):
            raise ProtocolError(f"BYTES element {index} of {size} is cut off")
        elements[index] = bytes(raw[begin:end])
        start = end
    if start != len(raw):
        raise ProtocolError(f"{len(raw) - start} bytes are left over behind {size} elements of BYTES")
    return elements


def decode_json(datatype: str, shape: tuple[int, ...], data: Any) -> Array:
    """Return an array of JSON values, given flat or nested by `shape`; BYTES become an object array of bytes.

    A float that is null becomes NaN: servers write it for NaN and infinities, which JSON lacks.

    Raises:
        ProtocolError: datatype, shape and values do not belong together.
    """
    values = _flattened(as_list(data, "a tensor's data"), shape)
    if len(values) != math.prod(shape):
        raise ProtocolError(f"shape {list(shape)} needs {math.prod(shape)} elements, not {len(values)}")
    if datatype == "BYTES":
        return _shaped(_bytes_of_strings(values), shape)
    dtype = _wire_dtype(datatype)
    # numpy would take "1" for 1 and 1.5 for 1, and holds large mixed integers as floats.
    if not set(map(type, values)) <= _JSON_TYPES[dtype.kind]:
        raise ProtocolError(f"the data of a {datatype} tensor holds other values")
    if values and dtype.kind in "iu" and not np.iinfo(dtype).min <= min(values) <= max(values) <= np.iinfo(dtype).max:
        raise ProtocolError(f"a value is out of the range of {datatype}")
    try:
        with np.errstate(over="ignore"):  # 1e300 as FP32 is an infinity, as it would be in any JSON reader
            return _shaped(np.array(values, dtype), shape)
    except OverflowError:
        raise ProtocolError(f"a value is out of the range of {datatype}") from None


def _flattened(level: list[Any], shape: tuple[int, ...]) -> list[Any]:
    if not level or not isinstance(level[0], list):
        return level
    if not shape or len(level) != shape[0]:
        raise ProtocolError(f"nested data of {len(level)} rows is not of shape {list(shape)}")
    for size in shape[1:]:
        rows = [as_list(row, "a row of nested data") for row in level]
        if any(len(row) != size for row in rows):
            raise ProtocolError(f"nested data is not of shape {list(shape)}")
        level = list(chain.from_iterable(rows))
    return level


def _bytes_of_strings(values: list[Any]) -> Array:
    elements = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise ProtocolError(f"BYTES element {index} is not a string")
        # A lone surrogate is legal in JSON and has no UTF-8 form of its own.
        elements[index] = value.encode("utf-8", "surrogatepass")
    return elements


def _wire_dtype(datatype: str) -> np.dtype[Any]:
    dtype = WIRE_DTYPES.get(datatype)
    if dtype is None:
        raise ProtocolError(f"unknown datatype {datatype!r}")
    return dtype


def _shaped(flat: Array, shape: tuple[int, ...]) -> Array:
    try:
        return flat.reshape(shape)
    except (ValueError, OverflowError):  # more axes, or longer ones around an empty one, than numpy can hold
        raise ProtocolError(f"shape {list(shape)} is out of range") from None
