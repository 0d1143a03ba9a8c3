"""The codec's laws: what is encoded is decoded again, and no body of any kind raises anything but ProtocolError."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from batchd_client import EncodedRequest, ProtocolError, decode_infer, encode_infer

LENGTH = "inference-header-content-length"
Arrays = dict[str, npt.NDArray[Any]]

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)
NUMBERS = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES))
TEXTS = hnp.arrays(object, SHAPES, elements=st.one_of(st.binary(max_size=8), st.text(max_size=8)), fill=st.nothing())
NAMES = st.text(min_size=1, max_size=5)
BINARY = st.dictionaries(NAMES, st.one_of(NUMBERS, TEXTS), min_size=1, max_size=3)
FINITE = st.one_of(
    hnp.boolean_dtypes().flatmap(lambda dtype: hnp.arrays(dtype, SHAPES)),
    st.one_of(hnp.integer_dtypes(), hnp.unsigned_integer_dtypes()).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES)),
    hnp.floating_dtypes(sizes=(32, 64)).flatmap(
        lambda dtype: hnp.arrays(dtype, SHAPES, elements={"allow_nan": False, "allow_infinity": False})
    ),
    hnp.arrays(object, SHAPES, elements=st.text(max_size=8), fill=st.nothing()),
)
JSON = st.dictionaries(NAMES, FINITE, min_size=1, max_size=3)


def echoed(request: EncodedRequest) -> tuple[dict[str, str], bytes]:
    """Return the response of a server that answers with the inputs."""
    length = request.headers.get(LENGTH)
    size = len(request.body) if length is None else int(length)
    head = json.loads(request.body[:size])
    text = json.dumps({"model_name": "m", "outputs": head["inputs"]}).encode()
    headers = {} if length is None else {LENGTH: str(len(text))}
    return headers, text + request.body[size:]


def as_bytes(array: npt.NDArray[Any]) -> list[bytes]:
    return [text.encode() if isinstance(text, str) else text for text in array.reshape(-1).tolist()]


def assert_same(sent: Arrays, received: dict[str, npt.NDArray[Any]]) -> None:
    assert list(received) == list(sent)
    for name, array in sent.items():
        assert received[name].shape == array.shape
        if array.dtype == object:
            assert received[name].reshape(-1).tolist() == as_bytes(array)
        else:
            assert received[name].dtype == array.dtype.newbyteorder("<")
            np.testing.assert_array_equal(received[name], array)


@given(BINARY)
def test_any_arrays_survive_the_binary_form(arrays: Arrays) -> None:
    assert_same(arrays, dict(decode_infer(*echoed(encode_infer("m", arrays))).outputs))


@given(JSON)
def test_finite_arrays_survive_the_json_form(arrays: Arrays) -> None:
    assert_same(arrays, dict(decode_infer(*echoed(encode_infer("m", arrays, binary=False))).outputs))


@given(BINARY, st.data())
def test_a_response_cut_off_anywhere_is_a_protocol_error(arrays: Arrays, data: st.DataObject) -> None:
    headers, body = echoed(encode_infer("m", arrays))
    cut = data.draw(st.integers(0, len(body) - 1))
    try:
        decode_infer(headers, body[:cut])
    except ProtocolError:
        return
    raise AssertionError(f"{cut} of {len(body)} bytes were taken for a whole response")


@given(BINARY, st.data())
def test_a_damaged_response_is_read_or_refused_but_never_crashes(arrays: Arrays, data: st.DataObject) -> None:
    headers, body = echoed(encode_infer("m", arrays))
    at = data.draw(st.integers(0, len(body) - 1))
    damaged = body[:at] + bytes([data.draw(st.integers(0, 255))]) + body[at + 1 :]
    try:
        result = decode_infer(headers, damaged)
    except ProtocolError:
        return
    assert result.outputs is not None


LIES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=12,
)
OUTPUTS = st.fixed_dictionaries(
    {"name": st.one_of(st.just("y"), LIES)},
    optional={
        "datatype": st.one_of(st.sampled_from(["FP32", "INT8", "UINT64", "BOOL", "BYTES", "BF16"]), LIES),
        "shape": st.one_of(st.lists(st.integers(-1, 2**70), max_size=3), st.lists(st.integers(0, 3), max_size=3), LIES),
        "parameters": st.one_of(
            st.fixed_dictionaries({"binary_data_size": st.one_of(st.integers(-1, 40), LIES)}), LIES
        ),
        "data": LIES,
    },
)


@given(
    st.lists(st.one_of(OUTPUTS, LIES), max_size=2),
    st.binary(max_size=40),
    st.one_of(st.none(), st.integers(-5, 400).map(str), st.text(max_size=4)),
)
def test_a_lying_server_gets_nothing_but_a_protocol_error(outputs: list[Any], tail: bytes, length: str | None) -> None:
    text = json.dumps({"model_name": "m", "outputs": outputs}).encode()
    try:
        result = decode_infer({LENGTH: str(len(text)) if length is None else length}, text + tail)
    except ProtocolError:
        return
    assert all(isinstance(array, np.ndarray) for array in result.outputs.values())
