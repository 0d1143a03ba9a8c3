"""Reads files of rows: JSON Lines and Parquet. A row's values are numbers, texts, or nested lists of numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from batchd_server.training.datasets.formats import Limits
from batchd_server.training.datasets.problems import DatasetError, DatasetTooLargeError
from batchd_server.training.datasets.table import Column, Table

_LINE_AT_MOST = 1 << 26
_ROWS_AT_A_TIME = 256
_OVERHEAD = 64  # of a Python object
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class _GrowingColumn:
    """One kind of values: numbers, texts, or nested lists of numbers."""

    def __init__(self) -> None:
        self._kind = ""
        self._values: list[Any] = []

    def add(self, value: Any) -> int:
        """Take a value, and return the bytes that it occupies, about."""
        kept, kind = _number_text_or_array(value)
        if kind != (self._kind or kind):
            raise DatasetError(f"is a {kind}, where those before it are {self._kind}s")
        self._kind = kind
        self._values.append(kept)
        return _OVERHEAD + (kept.nbytes if isinstance(kept, np.ndarray) else len(kept) if kind == "text" else 8)

    def column(self) -> Column:
        if self._kind == "list":
            return Column.of(self._values)
        return Column.dense(np.asarray(self._values, dtype=np.object_ if self._kind == "text" else None))


class _Rows:
    """Columns that grow by rows, each of which must have the same keys."""

    def __init__(self, limits: Limits) -> None:
        self._columns: dict[str, _GrowingColumn] = {}
        self._bytes = 0
        self._limits = limits

    def add(self, row: Mapping[str, Any]) -> None:
        if not self._columns:
            self._columns = {name: _GrowingColumn() for name in row}
        if row.keys() != self._columns.keys():
            wanted, got = ", ".join(sorted(self._columns)), ", ".join(sorted(row))
            raise DatasetError(f"has {got[:200] or 'nothing'}, where the first has {wanted[:200]}")
        for name, value in row.items():
            try:
                self._bytes += self._columns[name].add(value)
            except DatasetError as error:
                raise DatasetError(f"{name!r} {error}") from None
        if self._bytes > self._limits.unpacked_bytes:
            raise DatasetTooLargeError(f"the dataset unpacks to more than {self._limits.unpacked_bytes} bytes")

    def table(self) -> Table:
        if self._bytes == 0:
            raise DatasetError("the dataset has no examples, or they are empty")
        columns: dict[str, Column] = {}
        for name, growing in self._columns.items():
            try:
                columns[name] = growing.column()
            except DatasetError as error:
                raise DatasetError(f"{name!r}: {error}") from None
        return Table(columns)


def read_jsonl(path: Path, limits: Limits) -> Table:
    """Return the rows of a file with one JSON object on each line. Blank lines count but say nothing.

    Raises:
        DatasetError: with the number of the line.
    """
    rows = _Rows(limits)
    for number, line in _lines(path):
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise DatasetError(f"line {number} is no JSON: {error.msg}") from None
        if not isinstance(row, dict):
            raise DatasetError(f"line {number} is no JSON object")
        try:
            rows.add(row)
        except DatasetTooLargeError:
            raise
        except DatasetError as error:
            raise DatasetError(f"line {number}: {error}") from None
    return rows.table()


def read_parquet(path: Path, limits: Limits) -> Table:
    """Return the rows of a Parquet file.

    Raises:
        DatasetError: it is damaged, holds what is neither a number nor a text, or pyarrow is not installed.
    """
    try:
        import pyarrow  # noqa: PLC0415 - an extra
        import pyarrow.parquet  # noqa: PLC0415
    except ModuleNotFoundError:
        raise DatasetError("Parquet needs pyarrow on the server: pip install 'batchd[datasets]'") from None
    rows = _Rows(limits)
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_parquet(file.metadata, limits)
            for batch in file.iter_batches(batch_size=_ROWS_AT_A_TIME):
                for row in batch.to_pylist():
                    rows.add(row)
                    number += 1
    except MemoryError:
        raise DatasetTooLargeError("the dataset takes too much memory to read") from None
    except (pyarrow.ArrowException, OSError) as error:
        raise DatasetError(f"the file is damaged: {str(error)[:200]}") from error
    except DatasetTooLargeError:
        raise
    except DatasetError as error:
        raise DatasetError(f"row {number}: {error}") from None
    return rows.table()


def _check_parquet(metadata: Any, limits: Limits) -> None:
    declared = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    declared = max(declared, 8 * metadata.num_rows * metadata.num_columns)  # runs of equal values take no room
    if declared > limits.unpacked_bytes:
        raise DatasetTooLargeError(f"the dataset unpacks to {declared} bytes, more than {limits.unpacked_bytes}")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_LINE_AT_MOST):
            number += 1
            if len(line) == _LINE_AT_MOST:
                raise DatasetError(f"line {number} is longer than {_LINE_AT_MOST} bytes")
            content = line.removeprefix(_BYTE_ORDER_MARK).strip()
            if content:
                yield number, content


def _number_text_or_array(value: Any) -> tuple[Any, str]:
    """Return a value as it is kept, and its kind."""
    if isinstance(value, int | float):
        return value, "number"
    if isinstance(value, str | bytes):
        return value.encode() if isinstance(value, str) else value, "text"
    if not isinstance(value, list):
        raise DatasetError("must be a number, a text, or nested lists of numbers")
    try:
        array = np.asarray(value)
    except ValueError:
        raise DatasetError("holds lists of unequal length within one example") from None
    if array.dtype.kind not in "biuf":
        raise DatasetError("must be a number, a text, or nested lists of numbers")
    return array, "list"
