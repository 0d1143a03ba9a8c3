"""Datasets of every format, read into the same columns."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dataset_files import picture, zipped
from safetensors.numpy import save_file

from batchd_server.training.datasets.formats import Limits
from batchd_server.training.datasets.opening import read_table
from batchd_server.training.datasets.problems import DatasetError
from batchd_server.training.datasets.table import Table

LIMITS = Limits(unpacked_bytes=1 << 20, files=50, image_pixels=10_000)


def read(path: Path, said: str | None = None) -> Table:
    return read_table(path, said, LIMITS)[1]


def expected() -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    return [np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(2, dtype=np.float32).reshape(2, 1)]


def ragged_arrays() -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    return {
        "pixels_values": np.concatenate([array.reshape(-1) for array in expected()]),
        "pixels_shapes": np.array([[2, 3], [2, 1]]),
        "tokens_values": np.array([7, 8, 9, 10]),
        "tokens_offsets": np.array([0, 3, 4]),
        "y": np.array([1, 0]),
    }


def write_npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **ragged_arrays())


def write_safetensors(path: Path) -> None:
    save_file(ragged_arrays(), path)


def write_jsonl(path: Path) -> None:
    rows = [
        {"pixels": array.tolist(), "tokens": tokens, "y": label}
        for array, tokens, label in zip(expected(), ([7, 8, 9], [10]), (1, 0), strict=True)
    ]
    path.write_text("\n\n".join(json.dumps(row) for row in rows), encoding="utf-8-sig")


def write_parquet(path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    pixels = [array.tolist() for array in expected()]
    parquet.write_table(pyarrow.table({"pixels": pixels, "tokens": [[7, 8, 9], [10]], "y": [1, 0]}), path)


@pytest.mark.parametrize(
    ("format_name", "write"),
    [
        ("npz", write_npz),
        ("safetensors", write_safetensors),
        ("jsonl", write_jsonl),
        ("parquet", write_parquet),
    ],
)
def test_every_format_gives_the_same_columns(tmp_path: Path, format_name: str, write: Callable[[Path], None]) -> None:
    path = tmp_path / "data"  # no suffix: the content tells
    write(path)
    found, table = read_table(path, None, LIMITS)
    assert found == format_name
    assert len(table) == 2
    for index, array in enumerate(expected()):
        np.testing.assert_array_equal(table.columns["pixels"][index], array)
    assert [table.columns["tokens"][index].tolist() for index in range(2)] == [[7, 8, 9], [10]]
    assert [table.columns["y"][index].tolist() for index in range(2)] == [1, 0]


def test_a_dense_array_is_a_column_and_a_nameless_ragged_one_is_x(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(
        path, values=np.arange(5.0), offsets=np.array([0, 2, 5]), y=np.array([[1, 2], [3, 4]]), big=np.ones(2, ">f4")
    )
    table = read(path)
    assert table.columns["x"][1].tolist() == [2.0, 3.0, 4.0]
    assert table.columns["y"][1].tolist() == [3, 4]
    assert table.columns["big"].values.dtype == np.dtype("=f4")


def test_arrays_in_column_order_are_read_as_they_are(tmp_path: Path) -> None:
    array = np.asfortranarray(np.arange(24).reshape(4, 2, 3))
    np.savez(tmp_path / "data.npz", x=array)
    column = read(tmp_path / "data.npz").columns["x"]
    np.testing.assert_array_equal(np.stack([column[index] for index in range(4)]), array)


def test_texts_stay_texts(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a b", "label": 0}\n{"text": "\\u00e9", "label": 1}\n')
    assert [read(path).columns["text"][index].item() for index in range(2)] == [b"a b", "\u00e9".encode()]


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_the_folder_of_an_image_is_its_class(tmp_path: Path, kind: str) -> None:
    files = {
        "photos/dog/a.png": picture(4),
        "photos/cat/b.jpg": picture(6, kind="JPEG"),
        "photos/cat/c.bmp": picture(7, kind="BMP"),
    }
    path = tmp_path / "photos.zip"
    if kind == "zip":
        zipped(path, {**files, "photos/cat/.DS_Store": b"x", "__MACOSX/photos/cat/._b.jpg": b"x"}, zipfile.ZIP_STORED)
    else:
        path = tmp_path / "root"
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    table = read(path, "images")
    assert [table.columns["label"][index].item() for index in range(3)] == [0, 0, 1]  # in order of path: cat, cat, dog
    assert [table.columns["image"][index].shape for index in range(3)] == [(8, 6), (8, 7), (8, 4)]
    assert table.columns["image"][2][0, 0] == pytest.approx(0.2)


def test_classes_that_are_numbers_are_their_own_labels(tmp_path: Path) -> None:
    """Or else digits of which one is missing would be learned as others."""
    path = zipped(tmp_path / "data.zip", {f"{name}/1.png": picture() for name in ("3", "10", "07")})
    assert read(path).columns["label"].values.tolist() == [7, 10, 3]


def test_one_colour_image_makes_all_colour(tmp_path: Path) -> None:
    path = zipped(tmp_path / "data.zip", {"a/1.png": picture(), "b/2.png": picture(mode="RGB")})
    image = read(path).columns["image"]
    assert image[0].shape == image[1].shape == (8, 5, 3)
    np.testing.assert_allclose(image[1][0, 0], [1.0, 0.0, 0.2], rtol=1e-6)
    np.testing.assert_allclose(image[0][0, 0], 0.2, rtol=1e-6)


def test_what_it_is_said_to_be_must_be_so(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    write_jsonl(path)
    for said in ("npz", "images", "parquet", "safetensors"):
        with pytest.raises(DatasetError, match=f"said to be {said}, but it is jsonl"):
            read(path, said)
