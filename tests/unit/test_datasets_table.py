"""Columns: however examples are laid down, they are the same examples; and models get the types that they asked for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd_server.models.spec import TensorSpec
from batchd_server.training.datasets.problems import DatasetError
from batchd_server.training.datasets.table import Column, Table

Arrays = list[npt.NDArray[np.float64]]


@st.composite
def ragged(draw: st.DrawFn, axes: int) -> Arrays:
    shapes = draw(st.lists(st.tuples(*[st.integers(1, 4)] * axes), min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return [rng.normal(size=shape) for shape in shapes]


def same(column: Column, arrays: Arrays) -> bool:
    return len(column) == len(arrays) and all(np.array_equal(column[i], array) for i, array in enumerate(arrays))


@given(st.integers(0, 3).flatmap(ragged))
def test_a_column_gives_back_what_it_was_made_of(arrays: Arrays) -> None:
    shapes = np.array([array.shape for array in arrays], dtype=np.int64).reshape(len(arrays), -1)
    assert same(Column.of(arrays), arrays)
    assert same(Column(np.concatenate([array.reshape(-1) for array in arrays]), shapes), arrays)


@given(ragged(1), st.integers(1, 3))
def test_offsets_cut_along_the_first_axis(arrays: Arrays, width: int) -> None:
    wide = [np.repeat(array[:, None], width, axis=1) for array in arrays]
    offsets = np.cumsum([0, *(len(array) for array in arrays)])
    assert same(Column.cut(np.concatenate(wide), offsets), wide)


@given(st.integers(1, 5), st.lists(st.integers(1, 3), max_size=3))
def test_a_dense_array_is_cut_along_its_first_axis(count: int, shape: list[int]) -> None:
    array = np.arange(count * int(np.prod(shape)), dtype=np.float64).reshape(count, *shape)
    assert same(Column.dense(array), list(array))
    assert same(Column.dense(np.asfortranarray(array)), list(array))


@given(st.integers(0, 2).flatmap(ragged), st.data())
def test_the_example_with_a_nan_is_named(arrays: Arrays, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(arrays) - 1))
    arrays[index].reshape(-1)[data.draw(st.integers(0, arrays[index].size - 1))] = np.nan
    with pytest.raises(DatasetError, match=f"'x': example {index} holds NaN"):
        Table({"x": Column.of(arrays)})


def spec(datatype: str, *shape: int | str, max_size: int | None = None) -> TensorSpec:
    return TensorSpec(name="x", datatype=datatype, shape=shape, max_size=max_size)


def table(*rows: object, dtype: str | None = None) -> Table:
    return Table({"x": Column.of([np.asarray(row, dtype=dtype) for row in rows])})


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        (table([1, 2], [3]), spec("FP32", "n")),
        (table([1.0, 2.0], [3.0]), spec("INT64", "n")),
        (table([1, 2], [3], dtype="i8"), spec("UINT8", "n")),
        (table(True, False), spec("FP32")),
        (table(5, 6), spec("INT32", "n")),  # a number for a list of one
        (table(5, 6), spec("INT32", 1)),
        (table([[1.5, 2]], [[3, 4]], dtype="f8"), spec("FP16", 1, 2)),
    ],
)
def test_values_are_converted_where_nothing_is_lost(rows: Table, wanted: TensorSpec) -> None:
    column = rows.column(wanted)
    assert column.values.dtype == wanted.dtype
    np.testing.assert_array_equal(column.values.astype(np.float64), rows.columns["x"].values)
    assert column[0].ndim == len(wanted.shape)


@pytest.mark.parametrize(
    ("rows", "wanted", "message"),
    [
        (table([1.5]), spec("INT64", "n"), "must be INT64, got float64"),
        (table([300]), spec("UINT8", "n"), "must be UINT8"),
        (table([-1]), spec("UINT64", "n"), "must be UINT64"),
        (table([1 << 40]), spec("INT32", "n"), "must be INT32"),
        (table([1, 2]), spec("BYTES", "n"), "must be BYTES"),
        (table([1, 2]), spec("FP32", "n", "m"), r"must have 2 axes, \['n', 'm'\], got \[2\]"),
        (table([1, 2], [1, 2, 3]), spec("FP32", 2), "example 1: axis 0 must be 2, got 3"),
        (table([1, 2], [1, 2, 3]), spec("FP32", "n", max_size=2), "example 1: axis 0 must be at most 2, got 3"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_column(rows: Table, wanted: TensorSpec, message: str) -> None:
    with pytest.raises(DatasetError, match=f"'x': .*{message}"):
        rows.column(wanted)


def test_a_column_is_found_by_its_own_name_first() -> None:
    both = Table({"y": Column.dense(np.array([1])), "label": Column.dense(np.array([2]))})
    label = TensorSpec(name="label", datatype="INT64", shape=())
    assert both.column(label, "y").values.tolist() == [2]
    assert both.column(TensorSpec(name="class", datatype="INT64", shape=()), "y").values.tolist() == [1]
    with pytest.raises(DatasetError, match="no column 'class' or 'z'; there is 'y', 'label'"):
        both.column(TensorSpec(name="class", datatype="INT64", shape=()), "z")
