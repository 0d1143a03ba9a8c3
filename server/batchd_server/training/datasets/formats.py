"""The formats of datasets: how each is recognised, and what is too much of it."""

from __future__ import annotations

import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from batchd_server.training.datasets.problems import DatasetError

FORMATS: Final = {"npz": "npz", "safetensors": "safetensors", "parquet": "parquet", "jsonl": "jsonl", "images": "zip"}
"""Every format, and the suffix of its files."""

ZIP_ERRORS: Final = (
    *(zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError),
    *(EOFError, OSError, OverflowError, ValueError),
)
"""What zipfile raises on archives that are damaged."""
_GIB = 1 << 30
_PICKLE = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
_SAFETENSORS_HEADER_AT_MOST = 100_000_000  # what the format's own reader allows


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a dataset may unpack to. Checked before, and while, it is unpacked."""

    unpacked_bytes: int = 16 * _GIB
    files: int = 200_000
    """In an archive or a folder."""
    ratio: float = 200.0
    """Of what an archive of images holds to what it is; images are compressed already."""
    image_pixels: int = 1 << 24
    check_seconds: int = 300
    """Processor time that a check may take."""
    check_bytes: int = 33 * _GIB
    """Address space that a check may take: the columns, a copy of them, and the interpreter."""

    @classmethod
    def for_upload(cls, max_bytes: int) -> Limits:
        """Return the limits for an upload of at most `max_bytes`."""
        return cls(unpacked_bytes=2 * max_bytes, check_bytes=4 * max_bytes + _GIB)


def recognise(path: Path, said: str | None) -> str:
    """Return the format of a file or folder by what is in it.

    Raises:
        DatasetError: it is none, or not what it is said to be.
    """
    found = "images" if path.is_dir() else _by_content(path)
    if said is not None and said != found:
        raise DatasetError(f"the dataset is said to be {said}, but it is {found}")
    return found


def _by_content(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(4096)
    if not head:
        raise DatasetError("the dataset is empty")
    if head.startswith(_PICKLE):
        raise DatasetError("this is a Python pickle; batchd never loads one, because loading it runs what is in it")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _kind_of_archive(path)
    if head.startswith(b"\x93NUMPY"):
        raise DatasetError("this is a single array (.npy); save the arrays together, with numpy.savez")
    if head.startswith(b"PAR1"):
        return "parquet"
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= _SAFETENSORS_HEADER_AT_MOST:
        return "safetensors"
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        return "jsonl"
    raise DatasetError(f"this is no dataset of a known format; the formats are {', '.join(FORMATS)}")


def _kind_of_archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except ZIP_ERRORS as error:
        raise DatasetError(f"the archive is damaged: {error}") from error
    if not names:
        raise DatasetError("the archive is empty")
    if any(name.endswith((".pkl", ".pickle")) for name in names):
        raise DatasetError("the archive holds a Python pickle; batchd never loads one")
    return "npz" if all(name.endswith(".npy") for name in names) else "images"
