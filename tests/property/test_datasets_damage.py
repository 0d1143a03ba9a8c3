"""Whatever happens to a dataset's bytes, reading it gives a table or says what is wrong; nothing else is raised."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from dataset_files import picture, zipped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from batchd_server.training.datasets.formats import Limits
from batchd_server.training.datasets.opening import read_table
from batchd_server.training.datasets.problems import DatasetError

Damage = tuple[list[tuple[float, bytes]], float]
"""Places, as shares of the length, with what is written there; and the share after which all is cut off."""
LIMITS = Limits(unpacked_bytes=1 << 22, files=20, image_pixels=1 << 16)


def npz(compressed: bool) -> bytes:
    file = io.BytesIO()
    write = np.savez_compressed if compressed else np.savez
    write(file, values=np.arange(12.0), offsets=np.array([0, 5, 12]), y=np.array([1, 2]))  # type: ignore[operator]
    return file.getvalue()


def jsonl() -> bytes:
    return b"".join(json.dumps({"x": [[1, 2.5], [3, 4]], "t": "a", "y": row}).encode() + b"\n" for row in range(3))


def parquet() -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files

    file = io.BytesIO()
    files.write_table(pyarrow.table({"x": [[1, 2], [3]], "y": [1.5, 2.5], "t": ["a", "b"]}), file)
    return file.getvalue()


def images(folder: Path) -> bytes:
    kinds = {"a/1.png": "PNG", "b/2.jpg": "JPEG", "b/3.bmp": "BMP", "b/4.webp": "WEBP"}
    files = {name: picture(9, 8, kind=kind) for name, kind in kinds.items()}
    return zipped(folder / "images", files, zipfile.ZIP_STORED).read_bytes()


@pytest.fixture(scope="module", params=["npz", "compressed npz", "safetensors", "jsonl", "parquet", "images"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    make = {
        "npz": lambda: npz(compressed=False),
        "compressed npz": lambda: npz(compressed=True),
        "safetensors": lambda: save({"x": np.arange(6.0).reshape(2, 3), "y": np.array([1, 2])}),
        "jsonl": jsonl,
        "parquet": parquet,
        "images": lambda: images(tmp_path_factory.mktemp("images")),
    }
    content: bytes = make[request.param]()
    return content


@st.composite
def damages(draw: st.DrawFn) -> Damage:
    place = st.floats(0, 1, exclude_max=True)
    extremes = st.sampled_from(
        [b"\x00", b"\xff", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"-1", b"9" * 12]
    )
    written = draw(st.lists(st.tuples(place, st.one_of(st.binary(min_size=1, max_size=4), extremes)), max_size=4))
    return written, draw(st.one_of(st.just(1.0), place))


@settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=damages())
def test_damage_is_told_or_harmless(
    whole: bytes, tmp_path: Path, damage: tuple[list[tuple[float, bytes]], float]
) -> None:
    content = bytearray(whole)
    for place, written in damage[0]:
        begin = int(place * len(content))
        content[begin : begin + len(written)] = written
    path = tmp_path / "data"
    path.write_bytes(content[: int(damage[1] * len(content))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # decoders warn of what they mend
        table = None
        with suppress(DatasetError):
            _, table = read_table(path, None, LIMITS)
    if table is not None:
        assert len(table) >= 1
        assert all(column[len(table) - 1].size >= 1 for column in table.columns.values())


def test_undamaged_it_is_read(whole: bytes, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(whole)
    assert len(read_table(tmp_path / "data", None, LIMITS)[1]) >= 2
