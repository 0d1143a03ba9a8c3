"""One tensor on the wire and back: what the protocol fixes, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from batchd_client.errors import ProtocolError
from batchd_client.tensor_codec import (
    WIRE_DTYPES,
    as_array,
    datatype_of,
    decode_binary,
    decode_json,
    encode_binary,
    encode_json,
)


def test_bytes_on_the_wire_are_those_of_the_specification() -> None:
    assert bytes(encode_binary(np.array([1, -2], np.int16))) == b"\x01\x00\xfe\xff"
    assert bytes(encode_binary(np.array([True, False]))) == b"\x01\x00"
    assert bytes(encode_binary(np.array([1.0], np.float16))) == b"\x00\x3c"
    assert encode_binary(np.array([b"ab", ""], object)) == b"\x02\x00\x00\x00ab\x00\x00\x00\x00"


def test_a_contiguous_array_is_not_copied() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    view = np.frombuffer(encode_binary(array), np.float32)
    assert np.shares_memory(view, array)


@pytest.mark.parametrize("layout", [lambda a: a.T, lambda a: a[:, ::2], lambda a: a.astype(">i4")])
def test_any_memory_layout_is_sent_row_major_and_little_endian(layout: Any) -> None:
    array = layout(np.arange(12, dtype=np.int32).reshape(3, 4))
    decoded = decode_binary("INT32", array.shape, memoryview(encode_binary(array)))
    np.testing.assert_array_equal(decoded, array)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.array(["a\u00e9", "b"]), ["a\u00e9".encode(), b"b"]),
        (np.array([b"a", b"bc"]), [b"a", b"bc"]),
        (["x\0", "y"], [b"x\0", b"y"]),
        (np.array(["s", b"\xff"], object), [b"s", b"\xff"]),
    ],
)
def test_text_in_any_numpy_form_becomes_bytes(value: Any, expected: list[bytes]) -> None:
    array = as_array(value)
    assert datatype_of(array) == "BYTES"
    assert decode_binary("BYTES", (2,), memoryview(encode_binary(array))).tolist() == expected


@pytest.mark.parametrize("dtype", [np.complex64, "datetime64[s]", np.longdouble])
def test_a_dtype_outside_the_protocol_is_named(dtype: Any) -> None:
    with pytest.raises(ValueError, match="has no counterpart"):
        datatype_of(np.zeros(1, dtype))


def test_an_object_array_of_anything_else_is_refused() -> None:
    with pytest.raises(ValueError, match="neither bytes nor str, but int"):
        encode_binary(np.array([b"a", 1], object))


@pytest.mark.parametrize(
    "array",
    [np.ones(1, np.float16), np.array([np.nan]), np.array([np.inf], np.float32), np.array([b"\xff"], object)],
)
def test_what_json_cannot_carry_is_refused(array: Any) -> None:
    with pytest.raises(ValueError, match=r"binary|utf-8"):
        encode_json(array)


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]])
def test_json_data_may_be_flat_or_nested(data: Any) -> None:
    np.testing.assert_array_equal(decode_json("INT64", (2, 3), data), np.arange(1, 7).reshape(2, 3))


def test_json_integers_keep_all_64_bits() -> None:
    values = [2**64 - 1, 0, 2**63]
    assert decode_json("UINT64", (3,), values).tolist() == values


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("INT32", (2,), [1]),
        ("INT32", (1,), 1),
        ("INT32", (1,), None),
        ("INT32", (1,), ["1"]),
        ("INT32", (1,), [1.5]),
        ("INT32", (1,), [None]),
        ("INT32", (1,), [{}]),
        ("INT8", (1,), [128]),
        ("UINT8", (1,), [-1]),
        ("INT64", (1,), [2**80]),
        ("UINT64", (2,), [2**63, -1]),
        ("BOOL", (1,), [1]),
        ("FP32", (1,), [True]),
        ("FP32", (1,), [10**400]),
        ("FP32", (2,), [1.0, [2.0]]),
        ("FP32", (2, 2), [[1.0, 2.0], [3.0]]),
        ("FP32", (2, 2), [[1.0, 2.0], 3.0]),
        ("FP32", (4, 1), [[1.0, 2.0], [3.0, 4.0]]),
        ("FP32", (1,), [[[1.0]]]),
        ("FP32", (), [[1.0]]),
        ("BYTES", (1,), [1]),
        ("BF16", (1,), [1.0]),
        ("FP32", (0, 2**70), []),
        ("FP32", (1,) * 70, [1.0]),
    ],
)
def test_json_that_does_not_fit_its_declaration_is_a_protocol_error(
    datatype: str, shape: tuple[int, ...], data: Any
) -> None:
    with pytest.raises(ProtocolError):
        decode_json(datatype, shape, data)


@pytest.mark.parametrize(
    ("datatype", "shape", "raw"),
    [
        ("FP32", (2,), b"\0" * 7),
        ("FP32", (10**15,), b"\0" * 8),
        ("BOOL", (1,), b"\x02"),
        ("BF16", (1,), b"\0\0"),
        ("BYTES", (1,), b""),
        ("BYTES", (1,), b"\x05\0\0\0ab"),
        ("BYTES", (1,), b"\0\0\0\0x"),
        ("BYTES", (2,), b"\x04\0\0\0abcd"),
        ("BYTES", (10**15,), b"\0" * 8),
        ("FP32", (0, 2**70), b""),
    ],
)
def test_bytes_that_do_not_fit_their_declaration_are_a_protocol_error(
    datatype: str, shape: tuple[int, ...], raw: bytes
) -> None:
    with pytest.raises(ProtocolError):
        decode_binary(datatype, shape, memoryview(raw))


@pytest.mark.parametrize("datatype", [*WIRE_DTYPES, "BYTES"])
def test_empty_tensors_keep_their_shape(datatype: str) -> None:
    assert decode_binary(datatype, (0, 3), memoryview(b"")).shape == (0, 3)
    assert decode_json(datatype, (3, 0), [[], [], []]).shape == (3, 0)


def test_null_stands_for_what_a_float_cannot_say_in_json() -> None:
    np.testing.assert_array_equal(decode_json("FP32", (2, 1), [[None], [1]]), [[np.nan], [1.0]])
    assert decode_json("FP64", (2,), [None, 2]).dtype == np.float64


def test_a_json_number_too_large_for_its_float_is_an_infinity() -> None:
    assert decode_json("FP32", (2,), [1e300, 1]).tolist() == [np.inf, 1]
