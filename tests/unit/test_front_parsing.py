"""What a client may write in a request, and the name of the field where it may not."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import numpy as np
import orjson
import pytest

from batchd_server.errors import BadRequest, TooLarge
from batchd_server.front.deadlines import explicit_timeout_s
from batchd_server.front.limits import inflate
from batchd_server.front.oip.raw_request import parse_raw_request
from batchd_server.front.oip.request import ParsedRequest, header_length, parse_request
from batchd_server.front.openai.embeddings_request import parse_embeddings_request
from batchd_server.models.spec import TensorSpec

X = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}


def parse(document: dict[str, Any], binary: bytes | None = None) -> ParsedRequest:
    head = orjson.dumps(document)
    return parse_request(head + (binary or b""), None if binary is None else len(head), priority_levels=3)


def tensor(**changes: object) -> dict[str, Any]:
    return {"inputs": [{**X, **changes}]}


def binary_tensor(**parameters: object) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": parameters}]}


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": {"x": 1}}, "inputs"),
        ({"inputs": [7]}, "inputs[0]"),
        (tensor(name=""), "inputs[0].name"),
        (tensor(name=5), "inputs[0].name"),
        (tensor(datatype="FLOAT"), "inputs[0].datatype"),
        (tensor(datatype="BF16"), "inputs[0].datatype"),
        (tensor(datatype=None), "inputs[0].datatype"),
        (tensor(shape=[1, -2]), "inputs[0].shape"),
        (tensor(shape=[1, 2.0]), "inputs[0].shape"),
        (tensor(shape=[True, 2]), "inputs[0].shape"),
        (tensor(shape=["1", 2]), "inputs[0].shape"),
        (tensor(shape="12"), "inputs[0].shape"),
        (tensor(shape=None), "inputs[0].shape"),
        (tensor(shape=[]), "inputs[0].shape"),
        (tensor(shape=[1] * 100), "inputs[0].shape"),
        (tensor(shape=[2**62, 2**62]), "inputs[0].shape"),
        (tensor(shape=[0, 2**62, 2**62], data=[]), "inputs[0].shape"),
        (tensor(shape=[1, 3]), "inputs[0].data"),
        (tensor(data="ab"), "inputs[0].data"),
        (tensor(parameters=[]), "inputs[0].parameters"),
        (tensor(parameters={"binary_data_size": 8}), "inputs[0].parameters.binary_data_size"),
        (tensor(parameters={"shared_memory_region": "r"}), "inputs[0].parameters.shared_memory_region"),
        ({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32"}]}, "inputs[0].data"),
        ({**tensor(), "id": 7}, "id"),
        ({**tensor(), "parameters": 7}, "parameters"),
        ({**tensor(), "parameters": {"timeout": -1}}, "parameters.timeout"),
        ({**tensor(), "parameters": {"timeout": 1.5}}, "parameters.timeout"),
        ({**tensor(), "parameters": {"timeout": True}}, "parameters.timeout"),
        ({**tensor(), "parameters": {"priority": 4}}, "parameters.priority"),
        ({**tensor(), "parameters": {"priority": "1"}}, "parameters.priority"),
        ({**tensor(), "parameters": {"binary_data_output": 1}}, "parameters.binary_data_output"),
        ({**tensor(), "parameters": {"sequence_id": 3}}, "parameters.sequence_id"),
        ({**tensor(), "outputs": {}}, "outputs"),
        ({**tensor(), "outputs": ["y"]}, "outputs[0]"),
        ({**tensor(), "outputs": [{}]}, "outputs[0].name"),
        ({**tensor(), "outputs": [{"name": "y"}, {"name": "y"}]}, "outputs[1].name"),
        ({**tensor(), "outputs": [{"name": "y", "parameters": {"binary_data": "yes"}}]}, None),
        ({**tensor(), "outputs": [{"name": "y", "parameters": {"classification": -1}}]}, None),
    ],
)
def test_a_refusal_names_its_field(document: dict[str, Any], field: str | None) -> None:
    with pytest.raises(BadRequest) as refusal:
        parse(document)
    assert refusal.value.field == field or (field is None and str(refusal.value.field).startswith("outputs[0]"))


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[]", b"\xff\xfe{}", b'{"id": NaN}', b'{"a":' * 2000 + b"1" + b"}" * 2000, b"[" * 100_000],
    ids=["empty", "cut", "null", "list", "no UTF-8", "NaN", "deep objects", "deep lists"],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest) as refusal:
        parse_request(body, None, priority_levels=3)
    assert refusal.value.field == "body"


@pytest.mark.parametrize(
    ("parameters", "binary"),
    [
        ({"binary_data_size": 8}, b"1234567"),  # truncated
        ({"binary_data_size": 8}, b"123456789"),  # trailing
        ({"binary_data_size": 4}, b"1234"),  # not what the shape says
        ({"binary_data_size": 2**62}, b"12345678"),
        ({"binary_data_size": -8}, b"12345678"),
        ({"binary_data_size": "8"}, b"12345678"),
        ({"binary_data_size": True}, b"1"),
    ],
)
def test_sizes_of_binary_tensors_must_be_true(parameters: dict[str, object], binary: bytes) -> None:
    with pytest.raises(BadRequest):
        parse(binary_tensor(**parameters), binary)


def test_binary_and_json_tensors_share_a_request() -> None:
    document = {
        "inputs": [
            {"name": "a", "shape": [1, 1], "datatype": "INT16", "parameters": {"binary_data_size": 2}},
            X,
            {"name": "b", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 6}},
        ]
    }
    parsed = parse(document, b"\x07\x00" + b"\x02\x00\x00\x00hi")
    assert [(name, array.tolist()) for name, array in parsed.tensors] == [
        ("a", [[7]]),
        ("x", [[1.0, 2.0]]),
        ("b", [b"hi"]),
    ]


def test_an_output_decides_for_itself_whether_it_is_binary() -> None:
    outputs = [{"name": "y"}, {"name": "z", "parameters": {"binary_data": False, "classification": 2}}]
    parsed = parse({**tensor(), "outputs": outputs, "parameters": {"binary_data_output": True}})
    assert parsed.outputs is not None
    assert [(output.name, output.binary, output.classification) for output in parsed.outputs] == [
        ("y", True, 0),
        ("z", False, 2),
    ]


@pytest.mark.parametrize("value", ["-1", "1.5", "abc", "", "9" * 30, "\u0663", "11"])
def test_a_lying_header_length_is_refused(value: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        header_length(value, b"0123456789")
    assert refusal.value.field == "Inference-Header-Content-Length"


def test_a_raw_body_gives_the_variable_axis_its_size() -> None:
    spec = TensorSpec(name="x", datatype="FP32", shape=(2, "n"))
    ((name, array),) = parse_raw_request(np.arange(6, dtype="<f4").tobytes(), [spec]).tensors
    assert name == "x"
    assert array.tolist() == [[[0, 1, 2], [3, 4, 5]]]


def test_a_raw_body_of_bytes_is_one_element() -> None:
    spec = TensorSpec(name="x", datatype="BYTES", shape=())
    ((_, array),) = parse_raw_request(b"any bytes", [spec]).tensors
    assert array.tolist() == [b"any bytes"]


@pytest.mark.parametrize(
    "specs",
    [
        [TensorSpec(name="x", datatype="FP32", shape=(3,))],
        [TensorSpec(name="x", datatype="FP32", shape=(5, "n"))],
        [TensorSpec(name="x", datatype="FP32", shape=("m", "n"))],
        [TensorSpec(name="x", datatype="BYTES", shape=(2,))],
        [TensorSpec(name=name, datatype="FP32", shape=("n",)) for name in "xy"],
    ],
)
def test_a_raw_body_that_says_too_little_is_refused(specs: list[TensorSpec]) -> None:
    with pytest.raises(BadRequest):
        parse_raw_request(b"\0" * 16, specs)


def test_the_parameter_goes_before_the_header_and_zero_names_none() -> None:
    assert explicit_timeout_s(250_000, "100", 600) == 0.25
    assert explicit_timeout_s(0, "100", 600) == 0.1
    assert explicit_timeout_s(None, "0.5", 600) == 0.0005
    assert explicit_timeout_s(0, None, 600) is None
    assert explicit_timeout_s(10**15, None, 600) == 600


@pytest.mark.parametrize("header", ["", "0", "-5", "inf", "nan", "1e3", "5 s", "9" * 40])
def test_a_timeout_header_must_be_a_positive_number(header: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        explicit_timeout_s(None, header, 600)
    assert refusal.value.field == "X-Request-Timeout-Ms"


def test_compressed_bodies_come_out_as_they_were() -> None:
    assert inflate(gzip.compress(b"abc" * 100), "gzip", 300) == b"abc" * 100
    assert inflate(zlib.compress(b"abc" * 100), "deflate", 300) == b"abc" * 100


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (gzip.compress(b"\0" * 10_000_000, mtime=0), TooLarge),
        (gzip.compress(b"abc" * 100, mtime=0)[:-9], BadRequest),
        (gzip.compress(b"abc", mtime=0) + b"more", BadRequest),
        (b"no gzip", BadRequest),
        (b"", BadRequest),
    ],
    ids=["bomb", "truncated", "trailing", "other", "empty"],
)
def test_damaged_and_swollen_bodies_are_refused(body: bytes, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        inflate(body, "gzip", 1000)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model": None}, "model"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": ""}, "input[0]"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", 1]}, "input[1]"),
        ({"input": [[]]}, "input[0]"),
        ({"input": [1, "a"]}, "input[0]"),
        ({"input": [[1], [-1]]}, "input[1]"),
        ({"input": [[1], [1.0]]}, "input[1]"),
        ({"input": [[2**40]]}, "input[0]"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"encoding_format": []}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": True}, "dimensions"),
    ],
)
def test_a_refused_embedding_names_its_key(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        parse_embeddings_request({"model": "m", "input": "text", **changes})
    assert refusal.value.field == field


@pytest.mark.parametrize(
    ("given", "texts", "tokens"),
    [("a", ["a"], []), (["a", "b"], ["a", "b"], []), ([1, 2], [], [[1, 2]]), ([[1], [2, 3]], [], [[1], [2, 3]])],
)
def test_the_four_forms_of_embedding_input(given: object, texts: list[str], tokens: list[list[int]]) -> None:
    asked = parse_embeddings_request({"model": "m", "input": given})
    assert (asked.texts, asked.tokens) == (texts, tokens)
