"""Laws of cutting requests into items."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd_server.errors import BadRequest
from batchd_server.models.spec import NUMPY_DTYPES, TensorSpec
from batchd_server.models.validation import split_items

NUMERIC = sorted(name for name in NUMPY_DTYPES if name != "BYTES")
AXES = st.lists(st.one_of(st.integers(1, 3), st.sampled_from(["a", "b"])), max_size=3).map(tuple)


@given(data=st.data(), datatype=st.sampled_from(NUMERIC), axes=AXES, items=st.integers(1, 4))
def test_what_fits_the_specification_is_cut_and_loses_nothing(
    data: st.DataObject, datatype: str, axes: tuple[int | str, ...], items: int
) -> None:
    spec = TensorSpec(name="x", datatype=datatype, shape=axes)
    named = {axis: data.draw(st.integers(1, 4)) for axis in ("a", "b")}
    shape = [axis if isinstance(axis, int) else named[axis] for axis in axes]
    whole = np.arange(items * int(np.prod(shape))).reshape(items, *shape).astype(spec.dtype)
    cut = split_items([spec], {"x": whole})
    assert len(cut) == items
    np.testing.assert_array_equal(np.stack([item["x"] for item in cut]), whole)
    assert all(item["x"].dtype == spec.dtype and item["x"].ndim == len(axes) for item in cut)


@given(
    axes=AXES,
    datatype=st.sampled_from(NUMERIC),
    sent=st.sampled_from(NUMERIC),
    shape=st.lists(st.integers(0, 3), max_size=4),
)
def test_a_tensor_is_taken_whole_or_refused_by_name(
    axes: tuple[int | str, ...], datatype: str, sent: str, shape: list[int]
) -> None:
    spec = TensorSpec(name="x", datatype=datatype, shape=axes)
    array = np.zeros(shape, dtype=NUMPY_DTYPES[sent])
    fits = (
        sent == datatype
        and len(shape) == len(axes) + 1
        and 0 not in shape
        and all(isinstance(axis, str) or axis == size for axis, size in zip(axes, shape[1:], strict=True))
        and len({(axis, size) for axis, size in zip(axes, shape[1:], strict=True) if axis == "a"}) <= 1
        and len({(axis, size) for axis, size in zip(axes, shape[1:], strict=True) if axis == "b"}) <= 1
    )
    if fits:
        assert len(split_items([spec], {"x": array})) == shape[0]
        return
    with pytest.raises(BadRequest, match="'x'") as caught:
        split_items([spec], {"x": array})
    assert caught.value.field == "x"
