"""Reads files of named arrays: npz and safetensors.

A column is one array (N, ...), or, where examples vary in size, `NAME_values` with either `NAME_offsets` (N + 1: where
each example begins along the first axis) or `NAME_shapes` (N, axes: the values are then flat). `values`, `offsets` and
`shapes` without a name stand for the column `x`.
"""

from __future__ import annotations

import tokenize
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import IO

import numpy as np

from batchd_server.models.spec import Array
from batchd_server.training.datasets.archives import opened_archive
from batchd_server.training.datasets.formats import Limits
from batchd_server.training.datasets.problems import DatasetError
from batchd_server.training.datasets.table import Column, Table

_NUMBERS = "biuf"
_SAFETENSORS_TYPES = {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "F32", "F64"}
_HEADER_AT_MOST = 10_000  # characters; literal_eval is slow on, and can be crashed by, far longer ones


def read_npz(path: Path, limits: Limits) -> Table:
    """Return what `numpy.savez` wrote. Arrays of Python objects, which are pickles, are refused unread.

    Raises:
        DatasetError: it is damaged, or not of the form above.
    """
    arrays: dict[str, Array] = {}
    with opened_archive(path, limits) as (archive, entries):
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            with archive.open(entry) as file:
                try:
                    arrays[name] = _read_npy(file, entry.file_size)
                except DatasetError as error:
                    raise DatasetError(f"{name!r}: {error}") from None
    return Table(_columns(arrays))


def read_safetensors(path: Path) -> Table:
    """Return the tensors of a safetensors file.

    Raises:
        DatasetError: it is damaged, or not of the form above.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - one format of several

    arrays: dict[str, Array] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                if (datatype := file.get_slice(name).get_dtype()) not in _SAFETENSORS_TYPES:
                    raise DatasetError(f"{name!r} is {datatype}, which is not one of {', '.join(_SAFETENSORS_TYPES)}")
                arrays[name] = file.get_tensor(name)
    except SafetensorError as error:
        raise DatasetError(f"the file is damaged: {error}") from error
    return Table(_columns(arrays))


def _read_npy(file: IO[bytes], size: int) -> Array:
    """Read an array whose header is checked against the file's size before any memory is taken for it."""
    try:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran_order, dtype = read_header[version](file, max_header_size=_HEADER_AT_MOST)
    except (ValueError, KeyError, SyntaxError, RecursionError, tokenize.TokenError, TypeError) as error:
        raise DatasetError("this is no array as numpy writes it") from error
    if dtype.hasobject:
        raise DatasetError("an array of Python objects is a pickle; batchd never loads one")
    if dtype.kind not in _NUMBERS or dtype.itemsize > 8:
        raise DatasetError(f"an array of {dtype} is none of numbers")
    expected = prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or file.tell() + expected != size:
        raise DatasetError(f"the header asks for {expected} bytes, there are {size - file.tell()}")
    values = np.frombuffer(file.read(expected), dtype=dtype).astype(dtype.newbyteorder("="), copy=False)
    return values.reshape(shape, order="F" if fortran_order else "C")


def _columns(arrays: Mapping[str, Array]) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    for name, array in arrays.items():
        prefix, separator, role = name.rpartition("_") if "_" in name else ("", "", name)
        own = {other: f"{prefix}{separator}{other}" for other in ("values", "offsets", "shapes")}
        if role in {"offsets", "shapes"}:
            if own["values"] not in arrays:
                raise DatasetError(f"{name!r} comes without {own['values']!r}")
            continue
        try:
            if role == "values" and own["offsets"] in arrays:
                columns[prefix or "x"] = Column.cut(array, arrays[own["offsets"]])
            elif role == "values" and own["shapes"] in arrays:
                columns[prefix or "x"] = Column(array.reshape(-1), _as_shapes(arrays[own["shapes"]]))
            else:
                columns[name] = Column.dense(array)
        except DatasetError as error:
            raise DatasetError(f"{name!r}: {error}") from None
    return columns


def _as_shapes(shapes: Array) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    if shapes.ndim != 2 or shapes.dtype.kind not in "iu":
        raise DatasetError("shapes must be whole numbers of the form (examples, axes)")
    return shapes.astype(np.int64)
