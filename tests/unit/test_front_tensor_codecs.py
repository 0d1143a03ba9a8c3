"""Tensors through JSON and bytes: what fits comes through unchanged, what does not is refused by name."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import orjson
import pytest

from batchd_server.errors import BadRequest
from batchd_server.front.oip.classification import classify
from batchd_server.front.oip.tensor_binary import decode_binary, encode_binary
from batchd_server.front.oip.tensor_json import decode_json, encode_json


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]], ids=["flat", "nested"])
def test_flat_and_nested_json_are_the_same_tensor(data: object) -> None:
    tensor = decode_json(data, "INT32", [2, 3], "x")
    assert tensor.dtype == np.int32
    assert tensor.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("data", "datatype", "shape"),
    [
        ([1, 2, 3], "INT32", [2, 2]),  # too few
        ([1] * 5, "INT32", [2, 2]),  # too many
        ([[1, 2], [3]], "INT32", [2, 2]),  # ragged
        ([[1, 2], 3], "INT32", [2, 2]),  # mixed depth
        ([[[1, 2], [3, 4]]], "INT32", [2, 2]),  # too deep
        ([[1], [2], [3], [4]], "INT32", [2, 2]),  # nested as another shape
        ({"0": 1}, "INT32", [1]),
        (None, "INT32", [1]),
        (7, "INT32", [1]),
        ([300], "UINT8", [1]),
        ([-1], "UINT64", [1]),
        ([2**63], "INT64", [1]),
        ([1.5], "INT64", [1]),
        ([1.0], "INT64", [1]),
        ([True], "INT64", [1]),
        ([1], "BOOL", [1]),
        (["1"], "FP32", [1]),
        ([None], "FP32", [1]),
        ([False], "FP32", [1]),
        ([1e39], "FP32", [1]),
        ([1], "BYTES", [1]),
        ([1.0], "FP16", [1]),
        ([float("nan")], "FP64", [1]),
    ],
)
def test_json_that_does_not_fit_is_refused(data: object, datatype: str, shape: list[int]) -> None:
    with pytest.raises(BadRequest) as refusal:
        decode_json(data, datatype, shape, "inputs[0].data")
    assert refusal.value.field == "inputs[0].data"


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("UINT8", [0, 255]),
        ("UINT64", [0, 2**64 - 1]),
        ("INT64", [-(2**63), 2**63 - 1]),
        ("FP32", [-3.4028234663852886e38, 1.401298464324817e-45]),
        ("FP64", [-1.7976931348623157e308, 5e-324]),
        ("BOOL", [True, False]),
        ("BYTES", ["", "\u00e4 \u4e2d"]),
    ],
)
def test_the_ends_of_a_datatype_survive_json(datatype: str, values: list[Any]) -> None:
    tensor = decode_json(orjson.loads(orjson.dumps(values)), datatype, [2], "x")
    written = orjson.loads(orjson.dumps(encode_json(tensor, datatype, "x"), option=orjson.OPT_SERIALIZE_NUMPY))
    assert decode_json(written, datatype, [2], "x").tolist() == tensor.tolist()


def test_fp16_goes_through_json_in_neither_direction() -> None:
    with pytest.raises(BadRequest, match="binary"):
        decode_json([1.0], "FP16", [1], "x")
    with pytest.raises(BadRequest, match="binary"):
        encode_json(np.ones(1, dtype=np.float16), "FP16", "y")


def test_what_json_has_no_number_for_is_null() -> None:
    values = np.array([1.0, np.nan, np.inf], dtype=np.float32)
    assert orjson.dumps(encode_json(values, "FP32", "y"), option=orjson.OPT_SERIALIZE_NUMPY) == b"[1.0,null,null]"


def test_bytes_that_are_no_text_are_not_written_as_json() -> None:
    with pytest.raises(BadRequest, match="binary"):
        encode_json(np.array([b"\xff\xfe"], dtype=object), "BYTES", "y")


def test_empty_tensors_are_tensors() -> None:
    assert decode_json([], "FP32", [0, 3], "x").shape == (0, 3)
    assert decode_json([[], []], "FP32", [2, 0], "x").shape == (2, 0)
    assert decode_binary(memoryview(b""), "FP32", [1, 0], "x").shape == (1, 0)


def test_binary_is_little_endian_and_row_major() -> None:
    tensor = np.arange(6, dtype=np.int16).reshape(2, 3)
    assert encode_binary(tensor) == struct.pack("<6h", *range(6))
    assert encode_binary(tensor.T) == struct.pack("<6h", 0, 3, 1, 4, 2, 5)


def test_binary_is_read_at_any_alignment() -> None:
    body = memoryview(b"{" + struct.pack("<2d", 1.5, -2.5))
    assert decode_binary(body[1:], "FP64", [1, 2], "x").tolist() == [[1.5, -2.5]]


@pytest.mark.parametrize(
    ("data", "datatype", "shape"),
    [
        (b"1234567", "FP32", [2]),
        (b"123456789", "FP32", [2]),
        (b"\x02", "BOOL", [1]),
        (b"\x01\x00\x00", "BYTES", [1]),  # a length cut short
        (b"\x05\x00\x00\x00abc", "BYTES", [1]),  # longer than what there is
        (b"\xff\xff\xff\xffabc", "BYTES", [1]),
        (b"\x01\x00\x00\x00abc", "BYTES", [1]),  # bytes behind the last
        (b"\x00\x00\x00\x00", "BYTES", [2**31]),  # a count that must not be allocated
        (b"\x08\x00\x00\x00aaaaaaaa", "BYTES", [3]),
    ],
)
def test_bytes_that_do_not_fit_are_refused(data: bytes, datatype: str, shape: list[int]) -> None:
    with pytest.raises(BadRequest) as refusal:
        decode_binary(memoryview(data), datatype, shape, "body")
    assert refusal.value.field == "body"


def test_classes_come_highest_first_and_equal_ones_in_order() -> None:
    values = np.array([[0.5, 2.0, 2.0, -1.0], [1.0, np.nan, 0.0, 0.0]], dtype=np.float32)
    assert classify(values, 3, "y").tolist() == [
        [b"2.000000:1", b"2.000000:2", b"0.500000:0"],
        [b"1.000000:0", b"0.000000:2", b"0.000000:3"],
    ]


@pytest.mark.parametrize("datatype", ["float16", "float32", "float64", "int8", "int64", "uint64"])
def test_classes_are_what_sorting_one_by_one_gives(datatype: str) -> None:
    random = np.random.default_rng(0)
    values = (random.integers(0, 40, size=(20, 7, 9)) * (3 if "int" in datatype else 0.37)).astype(datatype)
    for highest in (1, 5, 62, 63, 10**9):
        for row, answer in zip(values.reshape(20, -1), classify(values, highest, "y"), strict=True):
            order = sorted(range(row.size), key=lambda index: (-row[index].item(), index))[:highest]
            texts = [f"{row[i]:.6f}" if row.dtype.kind == "f" else str(row[i]) for i in order]
            assert answer.tolist() == [f"{text}:{i}".encode() for text, i in zip(texts, order, strict=True)]


def test_no_more_classes_than_there_are() -> None:
    assert classify(np.array([[3, 9]], dtype=np.int64), 10, "y").tolist() == [[b"9:1", b"3:0"]]


def test_texts_are_not_classified() -> None:
    with pytest.raises(BadRequest, match="no numbers"):
        classify(np.array([[b"a"]], dtype=object), 1, "y")
