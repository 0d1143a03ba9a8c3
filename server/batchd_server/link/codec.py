"""Messages and tensors to frames and back. Whatever arrives, decoding gives a message or raises `LinkError`.

The first frame is the msgpack of one tagged struct; `TensorRef.frame` counts the frames after it from 0.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

import msgspec
import numpy as np

from batchd_server.link.messages import DeviceMessage, FrontMessage, TensorRef
from batchd_server.models.spec import Array, Tensors

Frame: TypeAlias = bytes | bytearray | memoryview

BYTES = "bytes"
"""`TensorRef.dtype` of arrays whose elements are byte strings."""

_Message = TypeVar("_Message")
_TYPE_CODES = ("?", "i1", "<i2", "<i4", "<i8", "u1", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8", "<c8", "<c16")
_DTYPES = {np.dtype(code).str: np.dtype(code) for code in _TYPE_CODES}
_LENGTH = struct.Struct("<I")


def _plain(value: object) -> object:
    """Return what msgpack has for values that merely look plain: `torch.__version__`, numpy's numbers."""
    if isinstance(value, np.generic):
        return value.item()
    for plain in (str, int, float):
        if isinstance(value, plain):
            return plain(value)
    raise TypeError(f"{type(value).__name__} cannot be sent")


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)
_front_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(FrontMessage)
_device_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(DeviceMessage)


class LinkError(Exception):
    """What came over the link, or was meant for it, is not what the link carries."""


def encode(message: FrontMessage | DeviceMessage, frames: Sequence[Frame] = ()) -> list[Frame]:
    """Return the frames of one message: the struct, then its tensors.

    Raises:
        LinkError: where a field holds what msgpack cannot.
    """
    try:
        return [_encoder.encode(message), *frames]
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise LinkError(f"{type(message).__name__} cannot be encoded: {error}") from error


def decode_front_message(header: Frame) -> FrontMessage:
    """Return what a front process said.

    Raises:
        LinkError: where `header` is no such message.
    """
    message: FrontMessage = _decode(_front_decoder, header)
    return message


def decode_device_message(header: Frame) -> DeviceMessage:
    """Return what the device process said.

    Raises:
        LinkError: where `header` is no such message.
    """
    message: DeviceMessage = _decode(_device_decoder, header)
    return message


def _decode(decoder: msgspec.msgpack.Decoder[_Message], header: Frame) -> _Message:
    try:
        return decoder.decode(header)
    # UnicodeDecodeError and RecursionError come out of msgspec unwrapped
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise LinkError(f"not a message: {error}") from error


def pack_tensors(tensors: Tensors, frames: list[Frame]) -> tuple[TensorRef, ...]:
    """Append the bytes of `tensors` to `frames` and return what refers to them. Copies only what is not contiguous.

    The arrays must not change until the message is sent.

    Raises:
        LinkError: for a dtype that the link does not carry.
    """
    return tuple(_pack(name, array, frames) for name, array in tensors.items())


def unpack_tensors(refs: Sequence[TensorRef], frames: Sequence[Frame]) -> dict[str, Array]:
    """Return the arrays that `refs` name: views of `frames`, except BYTES.

    Raises:
        LinkError: where a frame is missing or does not hold what its reference says.
    """
    return {ref.name: _unpack(ref, frames) for ref in refs}


def _pack(name: str, array: Array, frames: list[Frame]) -> TensorRef:
    if not isinstance(name, str):
        raise LinkError(f"tensor name {name!r} is not a string")
    shape = tuple(array.shape)
    if array.dtype.kind == "O":
        frames.append(_join(name, array))
        return TensorRef(name, BYTES, shape, len(frames) - 1)
    dtype = array.dtype.newbyteorder("<")
    if dtype.str not in _DTYPES:
        raise LinkError(f"tensor {name!r}: dtype {array.dtype} cannot be sent")
    # reshape(-1) because an array of shape () or with a size of 0 has no byte view of its own
    flat = np.ascontiguousarray(array, dtype=dtype).reshape(-1)
    frames.append(flat.view(np.uint8).data)
    return TensorRef(name, dtype.str, shape, len(frames) - 1)


def _join(name: str, array: Array) -> bytes:
    parts: list[bytes] = []
    for element in array.reshape(-1).tolist():
        if not isinstance(element, bytes):
            raise LinkError(f"tensor {name!r}: BYTES elements must be bytes, got {type(element).__name__}")
        parts += (_LENGTH.pack(len(element)), element)
    return b"".join(parts)


def _unpack(ref: TensorRef, frames: Sequence[Frame]) -> Array:
    if not 0 <= ref.frame < len(frames):
        raise LinkError(f"tensor {ref.name!r}: frame {ref.frame} of {len(frames)} does not exist")
    if any(size < 0 for size in ref.shape):
        raise LinkError(f"tensor {ref.name!r}: shape {list(ref.shape)} has a negative size")
    frame = frames[ref.frame]
    count = math.prod(ref.shape)
    if ref.dtype == BYTES:
        return _split(ref, count, frame)
    dtype = _DTYPES.get(ref.dtype)
    if dtype is None:
        raise LinkError(f"tensor {ref.name!r}: dtype {ref.dtype!r} is unknown")
    if len(frame) != count * dtype.itemsize:
        raise LinkError(
            f"tensor {ref.name!r}: {len(frame)} bytes cannot be {ref.dtype} of shape {list(ref.shape)}",
        )
    try:
        array: Array = np.frombuffer(frame, dtype=dtype).reshape(ref.shape) if count else np.empty(ref.shape, dtype)
    except (ValueError, OverflowError, MemoryError) as error:  # more than 64 dimensions, sizes beyond 2^63
        raise LinkError(f"tensor {ref.name!r}: shape {list(ref.shape)[:8]} is not possible: {error}") from error
    return array


def _split(ref: TensorRef, count: int, frame: Frame) -> Array:
    data = bytes(frame)
    elements: list[bytes] = []
    offset = 0
    # every element takes four bytes at least, so a lying shape ends here and not in an allocation
    while offset + _LENGTH.size <= len(data):
        (length,) = _LENGTH.unpack_from(data, offset)
        offset += _LENGTH.size
        if offset + length > len(data):
            raise LinkError(f"tensor {ref.name!r}: element {len(elements)} is cut off")
        elements.append(data[offset : offset + length])
        offset += length
    if offset != len(data) or len(elements) != count:
        raise LinkError(f"tensor {ref.name!r}: {len(elements)} elements cannot have shape {list(ref.shape)}")
    array = np.empty(count, dtype=np.object_)
    array[:] = elements
    try:
        return array.reshape(ref.shape)
    except ValueError as error:
        raise LinkError(f"tensor {ref.name!r}: shape {list(ref.shape)[:8]} is not possible: {error}") from error
