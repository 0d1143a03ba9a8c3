"""Files that stand for datasets, good and bad."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def zipped(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def npy(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npy_with_header(header: str, data: bytes = b"") -> bytes:
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def npy_of(datatype: str, shape: str, data: bytes = b"") -> bytes:
    return npy_with_header(f"{{'descr': '{datatype}', 'fortran_order': False, 'shape': {shape}, }}", data)


def picture(width: int = 5, height: int = 8, mode: str = "L", kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height), color=(255, 0, 51) if mode == "RGB" else 51).save(file, kind)
    return file.getvalue()


def png_that_declares(width: int, height: int) -> bytes:
    """Return a small PNG whose header promises other sizes."""
    content = picture(mode="L")
    fields = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + fields + struct.pack(">I", zlib.crc32(fields)) + content[33:]
