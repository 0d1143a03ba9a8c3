"""Any tensor comes back as it was sent, in every combination of JSON and binary."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from batchd_server.front.oip.request import parse_request
from batchd_server.front.oip.tensor_binary import decode_binary, encode_binary
from batchd_server.front.oip.tensor_json import decode_json, encode_json
from batchd_server.models.spec import NUMPY_DTYPES

_SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)


@st.composite
def tensors(draw: st.DrawFn, *, for_json: bool = False) -> tuple[str, Any]:
    """A datatype and an array of it; for JSON without what JSON cannot say."""
    datatype = draw(st.sampled_from([name for name in NUMPY_DTYPES if not (for_json and name == "FP16")]))
    shape = draw(_SHAPES)
    if datatype == "BYTES":
        element = st.text(max_size=8).map(str.encode) if for_json else st.binary(max_size=8)
        array = np.empty(shape, dtype=object)
        array.reshape(-1)[:] = draw(st.lists(element, min_size=array.size, max_size=array.size))
        return datatype, array
    dtype = NUMPY_DTYPES[datatype]
    finite: dict[str, Any] = {"allow_nan": False, "allow_infinity": False} if for_json and dtype.kind == "f" else {}
    return datatype, draw(hnp.arrays(dtype, shape, elements=hnp.from_dtype(dtype, **finite)))


@given(tensors())
def test_binary_tensors(case: tuple[str, Any]) -> None:
    datatype, array = case
    back = decode_binary(memoryview(encode_binary(array)), datatype, array.shape, "x")
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@given(tensors(for_json=True), st.booleans())
def test_json_tensors_flat_and_nested(case: tuple[str, Any], nested: bool) -> None:
    datatype, array = case
    written = orjson.loads(orjson.dumps(encode_json(array, datatype, "x"), option=orjson.OPT_SERIALIZE_NUMPY))
    if nested:
        written = np.array(written, dtype=object).reshape(array.shape).tolist()
    back = decode_json(written, datatype, array.shape, "x")
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@given(st.lists(st.one_of(tensors(for_json=True).map(lambda t: (*t, False)), tensors().map(lambda t: (*t, True)))))
def test_requests_of_any_tensors(cases: list[tuple[str, Any, bool]]) -> None:
    inputs: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for index, (datatype, array, binary) in enumerate(cases):
        tensor: dict[str, Any] = {"name": f"t{index}", "datatype": datatype, "shape": array.shape}
        if binary:
            blobs.append(encode_binary(array))
            tensor["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            tensor["data"] = encode_json(array, datatype, "x")
        inputs.append(tensor)
    if not inputs:
        return
    head = orjson.dumps({"inputs": inputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    parsed = parse_request(head + b"".join(blobs), len(head), priority_levels=3)
    assert [name for name, _ in parsed.tensors] == [f"t{index}" for index in range(len(cases))]
    for (_, back), (_, array, _) in zip(parsed.tensors, cases, strict=True):
        np.testing.assert_array_equal(back, array)
