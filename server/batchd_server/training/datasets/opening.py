"""Opens a dataset: from a file of any format to named columns."""

from __future__ import annotations

from pathlib import Path

from batchd_server.models.trainable import DatasetFiles
from batchd_server.training.datasets.array_files import read_npz, read_safetensors
from batchd_server.training.datasets.formats import Limits, recognise
from batchd_server.training.datasets.image_files import read_images
from batchd_server.training.datasets.problems import DatasetError
from batchd_server.training.datasets.row_files import read_jsonl, read_parquet
from batchd_server.training.datasets.table import Table


def open_dataset(dataset: DatasetFiles) -> Table:
    """Return a dataset's columns: what a model's `examples` begins with.

    Raises:
        DatasetError: a ValueError: it is built in, or is not what it was when it was taken in.
    """
    if dataset.path is None:
        raise DatasetError(f"{dataset.name!r} is built in: it has no columns")
    if not dataset.path.exists():
        raise DatasetError(f"dataset {dataset.name!r} is no longer where it was")
    return read_table(dataset.path, dataset.format, Limits())[1]


def read_table(path: Path, said: str | None, limits: Limits) -> tuple[str, Table]:
    """Return the format of a file or folder and its columns. `said` None: whatever it turns out to be.

    Raises:
        DatasetError: it is not what it is said to be, or anything is wrong with it.
    """
    found = recognise(path, said)
    if found == "npz":
        return found, read_npz(path, limits)
    if found == "safetensors":
        return found, read_safetensors(path)
    if found == "parquet":
        return found, read_parquet(path, limits)
    if found == "jsonl":
        return found, read_jsonl(path, limits)
    return found, read_images(path, limits)
