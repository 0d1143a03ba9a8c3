"""The sizes that `batchd padding` is asked about: from a file, or made up."""

from __future__ import annotations

import csv
import json
import random
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from batchd.simulator import parse_lengths

SUFFIXES = (".jsonl", ".csv", ".npy")


def read_sizes(source: str, count: int, seed: int, field: str) -> npt.NDArray[Any]:
    """Return sizes, (n,) or (n, 2).

    `source` is a file of one of `SUFFIXES`, or a notation such as `lognormal:24:1.0:2:256`, of which `count` lengths
    are made up. A line of JSON is a length, a pair [height, width], or an object with `field`; a row of CSV is one
    number or two, or has a column named `field` in its header.

    Raises:
        ValueError: neither a notation nor a file of such lines.
        OSError: the file cannot be read.
    """
    path = Path(source)
    if path.suffix not in SUFFIXES:
        if ":" not in source:
            raise ValueError(f"{source!r} is neither a file ending in {', '.join(SUFFIXES)} nor a law of lengths")
        lengths = parse_lengths(source, random.Random(seed))  # noqa: S311 - sizes, not secrets
        return np.array(list(islice(lengths, count)))
    if path.suffix == ".npy":
        found: npt.NDArray[Any] = np.load(path, allow_pickle=False)
        return found
    with path.open(newline="") as lines:
        rows = (
            [_json_size(line, field) for line in lines if line.strip()]
            if path.suffix == ".jsonl"
            else _csv_sizes([row for row in csv.reader(lines) if row], field)
        )
    try:
        return np.array(rows)
    except ValueError:
        raise ValueError(f"{source}: every line must have as many numbers as the first") from None


def _json_size(line: str, field: str) -> Any:
    value = json.loads(line)
    if not isinstance(value, dict):
        return value
    if field not in value:
        raise ValueError(f"a line has no field {field!r}; --field names another")
    return value[field]


def _csv_sizes(rows: list[list[str]], field: str) -> list[list[float]] | list[float]:
    header = [name.strip() for name in rows[0]] if rows else []
    if field in header:
        column = header.index(field)
        if any(len(row) <= column for row in rows):
            raise ValueError(f"a row has no column {field!r}")
        return [float(row[column]) for row in rows[1:]]
    if header and not _is_number(header[0]):
        if len(header) > 2:
            raise ValueError(f"the header has no column {field!r}; --field names another")
        rows = rows[1:]
    numbers = [[float(cell) for cell in row] for row in rows]
    return [row[0] for row in numbers] if all(len(row) == 1 for row in numbers) else numbers


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
