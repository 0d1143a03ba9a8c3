"""The digit reader learns from lines that somebody else brings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from batchd_server.models.digit_lines import DigitLines
from batchd_server.models.digit_lines.scans import scan_lines
from batchd_server.models.trainable import DatasetFiles
from batchd_server.training.datasets.builtin import BUILTIN, dataset_files

CPU = torch.device("cpu")


def saved(path: Path, **arrays: object) -> DatasetFiles:
    file = path / "data.npz"
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return DatasetFiles(name="mine", format="npz", path=file)


def test_the_built_in_dataset_has_as_many_examples_as_it_says() -> None:
    assert len(DigitLines().examples(dataset_files(BUILTIN[0])).sizes) == BUILTIN[0].examples


def test_lines_of_varying_width(tmp_path: Path) -> None:
    lines = scan_lines(seed=1, count=12, max_digits=5)
    dataset = saved(
        tmp_path,
        image_values=np.concatenate([image.reshape(-1) for image, _ in lines]),
        image_shapes=np.array([image.shape for image, _ in lines]),
        digits_values=np.concatenate([labels for _, labels in lines]),
        digits_offsets=np.cumsum([0, *(len(labels) for _, labels in lines)]),
    )
    examples = DigitLines().examples(dataset)
    assert examples.validation is None
    assert examples.sizes.tolist() == [image.shape[1] for image, _ in lines]
    assert examples.terms.tolist() == [len(labels) for _, labels in lines]
    batch = examples.batch(range(12), (40,), CPU)
    for row, (image, labels) in enumerate(lines):
        np.testing.assert_array_equal(batch.images[row, :, : image.shape[1]].numpy(), image)
        assert not batch.images[row, :, image.shape[1] :].any()
        assert batch.labels[row].tolist() == [*labels.tolist(), *[-1] * (5 - len(labels))]


def test_single_digits_with_a_label_each(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    examples = DigitLines().examples(saved(tmp_path, x=rng.random((6, 8, 8)), y=np.arange(6)))
    assert examples.sizes.tolist() == [8] * 6
    assert examples.batch([4, 2], (8,), CPU).labels.tolist() == [[4], [2]]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((3, 8, 16)), "y": np.zeros((3, 3), int)}, "example 0: 3 digits need 24 pixels, got 16"),
        ({"x": np.zeros((3, 8, 12)), "y": np.zeros((3, 1), int)}, "1 digits need 8 pixels, got 12"),
        ({"x": np.zeros((3, 7, 8)), "y": np.zeros(3, int)}, "axis 0 must be 8, got 7"),
        ({"x": np.zeros((3, 64)), "y": np.zeros(3, int)}, "must have 2 axes"),
        ({"x": np.zeros((3, 8, 8)), "y": np.array([0, 10, 1])}, "must be digits, got 0 to 10"),
        ({"x": np.zeros((3, 8, 8)), "y": np.array([0, -1, 1])}, "must be digits, got -1 to 1"),
        ({"x": np.zeros((3, 8, 8)), "y": np.array([0, 0.5, 1])}, "must be INT64"),
        ({"x": np.zeros((3, 8, 8))}, "no column 'digits' or 'y' or 'label'"),
        ({"y": np.zeros(3, int)}, "no column 'image' or 'x'"),
        ({"x": np.zeros((3, 8, 8)), "y": np.zeros(2, int)}, "'y' has 2 examples, but 'x' has 3"),
    ],
)
def test_what_is_no_line_of_digits_is_refused(tmp_path: Path, arrays: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DigitLines().examples(saved(tmp_path, **arrays))
