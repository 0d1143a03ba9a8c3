"""The datasets that come along."""

from __future__ import annotations

from batchd_server.models.trainable import DatasetFiles
from batchd_server.training.records import Dataset

BUILTIN: tuple[Dataset, ...] = (
    Dataset(
        id="digit-lines",
        name="digit-lines",
        format="builtin",
        path=None,
        bytes=0,
        examples=2093,  # lines of training scans, and those of held-out ones
        created=0.0,
        sha256=None,
    ),
)
"""Lines of handwritten digits, from the scans that scikit-learn carries. They cannot be deleted."""


def builtin(id_or_name: str) -> Dataset | None:
    """Return a dataset that comes along, or None."""
    return next((dataset for dataset in BUILTIN if id_or_name in (dataset.id, dataset.name)), None)


def dataset_files(dataset: Dataset) -> DatasetFiles:
    """Return a dataset as `Trainable.examples` takes it."""
    return DatasetFiles(name=dataset.name, format=dataset.format, path=dataset.path)
