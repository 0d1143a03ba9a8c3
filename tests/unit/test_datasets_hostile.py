"""Files that are no datasets, by accident or by design: each is refused, with the reason."""

from __future__ import annotations

import json
import pickle
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from dataset_files import npy, npy_of, npy_with_header, picture, png_that_declares, zipped

from batchd_server.training.datasets.formats import Limits
from batchd_server.training.datasets.opening import read_table
from batchd_server.training.datasets.problems import DatasetError, DatasetTooLargeError
from batchd_server.training.datasets.table import Table

LIMITS = Limits(unpacked_bytes=1 << 20, files=50, image_pixels=10_000)


def read(path: Path, said: str | None = None) -> Table:
    return read_table(path, said, LIMITS)[1]


class Tripwire:
    """Its pickle leaves a file behind when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def header(body: dict[str, object], data: bytes = b"") -> bytes:
    text = json.dumps(body).encode()
    return struct.pack("<Q", len(text)) + text + data


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}

HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "empty"),
    "noise": (bytes(range(255, 0, -1)), "no dataset of a known format"),
    "pickle": (pickle.dumps([1, 2, 3]), "pickle"),
    "pickle, protocol 0": (pickle.dumps([1, 2, 3], protocol=0), "no dataset of a known format"),
    "single array": (npy(np.arange(3)), "numpy.savez"),
    "text": (b"hello", "no dataset of a known format"),
    "csv": (b"x,y\n1,2\n", "no dataset of a known format"),
    "zip, cut off": (b"PK\x03\x04" + b"\0" * 40, "damaged"),
    "zip, empty": (b"PK\x05\x06" + b"\0" * 18, "empty"),
    "jsonl, damaged": (b'{"x": 1}\n{"x": \n', "line 2 is no JSON"),
    "jsonl, cut off": (b'{"x": [1, 2]}\n{"x": [1, ', "line 2 is no JSON"),
    "jsonl, a list": (b'{"x": 1}\n\n[1]\n', "line 3 is no JSON object"),
    "jsonl, other keys": (b'{"x": 1}\n{"y": 1}\n', "line 2: has y, where the first has x"),
    "jsonl, NaN": (b'{"x": NaN}\n', "line 1 is no JSON"),
    "jsonl, infinite": (b'{"x": 1}\n{"x": 1e999}\n', "line 2 is no JSON|infinity"),
    "jsonl, null": (b'{"x": null}\n', "line 1: 'x' must be a number"),
    "jsonl, an object": (b'{"x": {"a": 1}}\n', "line 1: 'x' must be a number"),
    "jsonl, texts in a list": (b'{"x": ["a"]}\n', "line 1: 'x' must be a number"),
    "jsonl, uneven": (b'{"x": [[1, 2], [3]]}\n', "line 1: 'x' holds lists of unequal length"),
    "jsonl, an empty list": (b'{"x": [1]}\n{"x": []}\n', "example 1 is empty"),
    "jsonl, other axes": (b'{"x": [1]}\n{"x": [[1]]}\n', "example 1 has 2 axes"),
    "jsonl, mixed": (b'{"x": 1}\n{"x": "a"}\n', "line 2: 'x' is a text, where those before it are numbers"),
    "jsonl, deep": (b'{"x": ' + b"[" * 5000 + b"]" * 5000 + b"}", "line 1"),
    "jsonl, no keys": (b"{}\n", "no examples, or they are empty"),
    "jsonl, not utf-8": (b'{"x": "\xff\xfe"}\n', "line 1 is no JSON"),
    "safetensors, empty": (header({}), "no columns"),
    "safetensors, cut off": (header({"x": ENTRY}, b"\0" * 4), "damaged"),
    "safetensors, only a length": (struct.pack("<Q", 50) + b"{", "damaged"),
    "safetensors, no JSON": (struct.pack("<Q", 50) + b"{" * 50, "damaged"),
    "safetensors, huge header": (struct.pack("<Q", 1 << 60) + b"{}", "no dataset of a known format"),
    "safetensors, outside": (header({"x": {**ENTRY, "data_offsets": [800, 808]}}, b"\0" * 8), "damaged"),
    "safetensors, negative": (header({"x": {**ENTRY, "shape": [-2]}}, b"\0" * 8), "damaged"),
    "safetensors, huge shape": (header({"x": {**ENTRY, "shape": [1 << 62, 1 << 62]}}, b"\0" * 8), "damaged"),
    "safetensors, bfloat16": (
        header({"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}, b"\0" * 4),
        "BF16",
    ),
    "safetensors, no examples": (header({"x": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}), "no examples"),
    "safetensors, NaN": (header({"x": ENTRY}, struct.pack("<2f", 1, float("nan"))), "example 1 holds NaN"),
    "safetensors, a scalar": (
        header({"x": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}, b"\0" * 4),
        "single number",
    ),
}


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_are_refused_with_the_reason(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "data"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        read(path)


ARRAYS: dict[str, tuple[dict[str, bytes], str]] = {
    "objects": ({"x.npy": npy(np.array([{}, []], dtype=object))}, "'x': an array of Python objects is a pickle"),
    "pickle for an array": ({"x.npy": pickle.dumps([1])}, "'x': this is no array"),
    "torch.save": ({"archive/data.pkl": pickle.dumps([1]), "archive/data/0": b"\0"}, "pickle"),
    "noise": ({"x.npy": b"hello"}, "'x': this is no array"),
    "nothing": ({"x.npy": b""}, "'x': this is no array"),
    "huge": (
        {"x.npy": npy_of("<f8", "(1000000000000,)")},
        "header asks",
    ),
    "negative": (
        {"x.npy": npy_of("<f8", "(-1,)")},
        "header asks|no array",
    ),
    "code for a header": ({"x.npy": npy_with_header("__import__('os').abort()")}, "no array"),
    "nested header": ({"x.npy": npy_with_header("(" * 100)}, "no array"),
    "cut off": ({"x.npy": npy(np.arange(100.0))[:-1]}, "header asks for 800 bytes, there are 799"),
    "too long": ({"x.npy": npy(np.arange(4.0)) + b"\0"}, "header asks"),
    "complex": ({"x.npy": npy(np.ones(2, dtype=complex))}, "none of numbers"),
    "texts": ({"x.npy": npy(np.array(["a", "b"]))}, "none of numbers"),
    "records": ({"x.npy": npy(np.zeros(2, dtype=[("a", "<f4"), ("b", "O")]))}, "pickle"),
    "dates": ({"x.npy": npy(np.zeros(2, dtype="datetime64[s]"))}, "none of numbers"),
    "scalar": ({"x.npy": npy(np.array(1.0))}, "'x': a single number"),
    "no examples": ({"x.npy": npy(np.zeros((0, 3)))}, "no examples"),
    "empty examples": ({"x.npy": npy(np.zeros((3, 0)))}, "example 0 is empty"),
    "unequal": ({"x.npy": npy(np.zeros(3)), "y.npy": npy(np.zeros(2))}, "'y' has 2 examples, but 'x' has 3"),
    "NaN": ({"x.npy": npy(np.array([[1.0, 2.0], [3.0, np.nan]]))}, "'x': example 1 holds NaN"),
    "infinite": ({"x.npy": npy(np.array([np.inf, 1.0]))}, "'x': example 0 holds NaN or an infinity"),
    "offsets alone": ({"x_offsets.npy": npy(np.arange(3))}, "'x_offsets' comes without 'x_values'"),
    "offsets fall": ({"values.npy": npy(np.zeros(4)), "offsets.npy": npy(np.array([0, 3, 2, 4]))}, "never fall"),
    "offsets too short": ({"values.npy": npy(np.zeros(4)), "offsets.npy": npy(np.array([0, 3]))}, "from 0 to the 4"),
    "offsets from 1": ({"values.npy": npy(np.zeros(4)), "offsets.npy": npy(np.array([1, 4]))}, "from 0 to the 4"),
    "offsets of floats": ({"values.npy": npy(np.zeros(4)), "offsets.npy": npy(np.array([0.0, 4.0]))}, "whole numbers"),
    "no offsets": ({"values.npy": npy(np.zeros(4)), "offsets.npy": npy(np.zeros(0, dtype=int))}, "whole numbers"),
    "shapes too large": ({"values.npy": npy(np.zeros(4)), "shapes.npy": npy(np.array([[2, 3]]))}, "ask for 6 values"),
    "shapes negative": ({"values.npy": npy(np.zeros(4)), "shapes.npy": npy(np.array([[-2, -2]]))}, "negative"),
    "shapes overflow": (
        {"values.npy": npy(np.zeros(4)), "shapes.npy": npy(np.array([[1 << 40, 1 << 40]]))},
        "impossibly",
    ),
    "flat shapes": ({"values.npy": npy(np.zeros(4)), "shapes.npy": npy(np.array([4]))}, "of the form"),
    "too many": ({f"x{number}.npy": b"" for number in range(51)}, "holds 51 files"),
    "too large": ({"x.npy": npy(np.zeros(200_000))}, "unpacks to 1600128 bytes"),
}


@pytest.mark.parametrize(("files", "message"), ARRAYS.values(), ids=ARRAYS.keys())
def test_hostile_archives_of_arrays_are_refused(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read(zipped(tmp_path / "data.npz", files))


NAMES = ["../x.npy", "a/../../x.npy", "/x.npy", "C:/x.npy", "..\\x.npy", "a\\..\\..\\x.npy"]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_lead_out_of_an_archive_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match="leads out"):
        read(zipped(tmp_path / "data.npz", {"y.npy": npy(np.arange(3)), name: npy(np.arange(3))}))
    assert [path.name for path in tmp_path.iterdir()] == ["data.npz"]


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("x.npy", npy(np.arange(3)))
        archive.writestr("x.npy", npy(np.arange(4)))
    with pytest.raises(DatasetError, match="two files of the same name"):
        read(tmp_path / "data.npz")


def test_a_link_in_an_archive_is_refused(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("a/link.png")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(DatasetError, match="symbolic link"):
        read(tmp_path / "data.zip")


def test_other_compression_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="another method"):
        read(zipped(tmp_path / "data.npz", {"x.npy": npy(np.arange(3))}, zipfile.ZIP_LZMA))


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "data.npz", {"x.npy": npy(np.arange(3))}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="encrypted"):
        read(path)


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = zipped(tmp_path / "data.npz", {"x.npy": npy(np.arange(300))}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="damaged"):
        read(path)


def test_an_archive_that_declares_less_than_it_holds_gives_no_more(tmp_path: Path) -> None:
    """The bomb that lies about its size: zipfile stops at what was declared, and the checksum fails."""
    path = zipped(tmp_path / "data.npz", {"x.npy": npy(np.zeros(100_000))})
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\x01\x02") + 24, 1000)
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"damaged|header asks"):
        read(path)


IMAGES: dict[str, tuple[dict[str, bytes], str]] = {
    "no class": ({"a.png": picture()}, "lies in no folder"),
    "no image": ({"a/readme.txt": b"hello"}, "'a/readme.txt': this is no image"),
    "pickle for an image": ({"a/1.png": pickle.dumps([1])}, "this is no image"),
    "an archive for an image": ({"a/1.png": b"PK\x03\x04" + b"\0" * 40}, "this is no image"),
    "cut off": ({"a/1.png": picture(90, 90)[:-30]}, "damaged"),
    "nothing": ({"a/1.png": b""}, "this is no image"),
    "gif": ({"a/1.gif": picture(kind="GIF")}, "this is no image"),
    "too many pixels": ({"a/1.png": picture(101, 100)}, "101 x 100 are more than 10000 pixels"),
    "pixel bomb": ({"a/1.png": png_that_declares(50_000, 50_000)}, "more than 10000 pixels"),
    "16 bits": ({"a/1.png": picture(mode="I;16")}, "mode I;16"),
    "all of it": ({f"a/{number}.png": picture(100, 100) for number in range(30)}, "unpack to more than"),
    "only hidden files": ({"a/.hidden": b"x"}, "no examples"),
}


@pytest.mark.parametrize(("files", "message"), IMAGES.values(), ids=IMAGES.keys())
def test_hostile_images_are_refused(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read(zipped(tmp_path / "data.zip", files, zipfile.ZIP_STORED))


def test_a_bomb_of_images_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    limits = Limits(unpacked_bytes=1 << 40)
    path = zipped(tmp_path / "data.zip", {"a/1.png": picture(), "a/2.png": bytes(30 << 20)})
    with pytest.raises(DatasetTooLargeError, match="200 times its size"):
        read_table(path, None, limits)


def test_rows_that_take_too_much_memory_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"x": [0, 0, 0, 0, 0, 0, 0, 0]}\n' * 10_000)
    with pytest.raises(DatasetTooLargeError, match="1048576"):
        read(path)


def test_no_pickle_is_ever_loaded(tmp_path: Path) -> None:
    """Wherever one may hide."""
    wire = tmp_path / "tripped"
    loaded = pickle.dumps(Tripwire(wire))
    hides = [
        loaded,
        pickle.dumps(Tripwire(wire), protocol=0),
        zipped(tmp_path / "1", {"x.npy": loaded}).read_bytes(),
        zipped(
            tmp_path / "2",
            {"x.npy": npy_of("|O", "(1,)", loaded)},
        ).read_bytes(),
        zipped(tmp_path / "3", {"archive/data.pkl": loaded, "archive/version": b"3"}).read_bytes(),
        zipped(tmp_path / "4", {"a/x.png": loaded}).read_bytes(),
        npy_of("|O", "(1,)", loaded),
    ]
    for content in hides:
        path = tmp_path / "data"
        path.write_bytes(content)
        with pytest.raises(DatasetError):
            read(path)
    assert not wire.exists()
    pickle.loads(loaded)
    assert wire.exists(), "the wire itself must work"


class TestParquet:
    def write(self, path: Path, columns: dict[str, object]) -> Path:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table(columns), path)
        return path

    def test_damaged_files_are_refused(self, tmp_path: Path) -> None:
        whole = self.write(tmp_path / "whole", {"x": list(range(100))}).read_bytes()
        path = tmp_path / "data"
        for content in (
            whole[:-1],
            whole[: len(whole) // 2],
            b"PAR1",
            b"PAR1" * 4,
            whole[:20] + bytes(40) + whole[60:],
        ):
            path.write_bytes(content)
            with pytest.raises(DatasetError):
                read(path)

    def test_missing_values_and_unequal_lists_are_refused_with_the_row(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="row 1: 'x' must be a number"):
            read(self.write(tmp_path / "data", {"x": [1, None]}))
        with pytest.raises(DatasetError, match="row 1: 'x' holds lists of unequal length"):
            read(self.write(tmp_path / "data", {"x": [[[1]], [[1, 2], [3]]]}))
        with pytest.raises(DatasetError, match="no examples"):
            read(self.write(tmp_path / "data", {"x": []}))
        with pytest.raises(DatasetError, match="example 1 holds NaN"):
            read(self.write(tmp_path / "data", {"x": [1.0, float("nan")]}))

    def test_runs_of_equal_values_do_not_hide_a_bomb(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "data", {"x": np.zeros(1_000_000, dtype=np.int64)})
        assert path.stat().st_size < 20_000
        with pytest.raises(DatasetTooLargeError, match="unpacks to 8000000 bytes"):
            read(path)
